"""`runner work --engine ray`: mistakes are told before anything is started."""

import json
import signal
import sys
from pathlib import Path

import pytest

from runner.cli.cluster import _everywhere, _work
from runner.cli.main import build_parser, main
from tests.harness import Runner, wait_until


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2"], "add --engine ray"),
        (["--address", "head:6379"], "add --engine ray"),
        (["--engine", "ray", "--workers", "0"], "expected 1 or more"),
        (["--engine", "ray", "--gpus", "1.5"], "expected a part such as 0.5, or whole ones"),
        (["--engine", "ray", "--gpus", "-1"], "expected a part such as 0.5, or whole ones"),
        (["--engine", "ray", "--max-duration", "soon"], "expected a duration"),
        (["--engine", "ray", "--each-gpu"], "--each-gpu is for this machine"),
        (["--each-gpu"], "--each-gpu: nvidia-smi finds no GPU here"),
    ],
)
def test_a_wrong_option_is_explained(
    options: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runner.cli.cluster.catch_signals", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert main(["work", "--store", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


def test_ray_is_an_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the message says how to get it."""
    monkeypatch.setattr("runner.cli.cluster.catch_signals", lambda: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "runner.engine.ray", raising=False)
    assert main(["work", "--engine", "ray", "--store", str(tmp_path)]) == 2
    assert "pip install ray" in capsys.readouterr().err


def test_a_store_with_a_password_is_on_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a machine's users may read those; the environment is the process's own."""
    monkeypatch.setenv("RUNNER_NOTIFY", "ntfys://a-topic")
    arguments = [
        "work",
        "--engine",
        "ray",
        "--store",
        "s3://key:secret@bucket/runs",
        "--label",
        "a",
    ]
    work = _work(build_parser(arguments).parse_args(arguments))
    assert list(work.arguments) == ["work", "--label", "a"]
    assert work.environment["RUNNER_STORE"] == "s3://key:secret@bucket/runs"
    assert work.environment["RUNNER_NOTIFY"] == "ntfys://a-topic"


def test_a_folder_is_named_so_that_other_folders_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers start elsewhere than this command."""
    monkeypatch.chdir(tmp_path)
    assert _everywhere("runs") == str(tmp_path / "runs")
    assert _everywhere("gs://bucket/runs") == "gs://bucket/runs"


SMI = """#!/bin/sh
echo "0, GPU-aaa, NVIDIA L4, 23034"
echo "1, GPU-bbb, NVIDIA L4, 23034"
echo "2, GPU-ccc, Tesla T4, 15360"
"""


@pytest.mark.parametrize(("driver", "visible"), [(True, "0,1"), (False, "GPU-aaa,GPU-bbb")])
def test_two_workers_take_one_card_each(tmp_path: Path, *, driver: bool, visible: str) -> None:
    """Of those that this process may use; asked to stop, both save and end."""
    folder = tmp_path / "bin"
    folder.mkdir()
    if driver:
        (folder / "nvidia-smi").write_text(SMI)
        (folder / "nvidia-smi").chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": visible}
    runner = Runner(tmp_path / "store", environment)
    process = runner.start("work", "--each-gpu", "--label", "lab")

    def cards() -> dict[str, str]:
        listed = json.loads(runner.ok("status", "--workers", "--json"))
        assert all(one["labels"] == ["lab"] for one in listed)
        found = (Path(f"/proc/{one['worker'].split(':')[1]}/environ") for one in listed)
        variables = (path.read_bytes().decode().split("\0") for path in found if path.exists())
        return {
            value.partition("=")[2]: one["worker"]
            for one, all_of_them in zip(listed, variables, strict=False)
            for value in all_of_them
            if value.startswith("CUDA_VISIBLE_DEVICES=")
        }

    assert wait_until(lambda: sorted(cards()) == ["GPU-aaa", "GPU-bbb"], process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "2 workers, one for each GPU" in said
    assert cards() == {}, "each took its leave"
