"""`runner work --engine ray`: mistakes are told before anything is started."""

import sys
from pathlib import Path

import pytest

from runner.cli.cluster import _everywhere, _work
from runner.cli.main import build_parser, main


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2"], "add --engine ray"),
        (["--address", "head:6379"], "add --engine ray"),
        (["--engine", "ray", "--workers", "0"], "expected 1 or more"),
        (["--engine", "ray", "--gpus", "1.5"], "expected a part such as 0.5, or whole ones"),
        (["--engine", "ray", "--gpus", "-1"], "expected a part such as 0.5, or whole ones"),
        (["--engine", "ray", "--max-duration", "soon"], "expected a duration"),
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


def test_a_folder_is_named_so_that_other_folders_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers start elsewhere than this command."""
    monkeypatch.chdir(tmp_path)
    assert _everywhere("runs") == str(tmp_path / "runs")
    assert _everywhere("gs://bucket/runs") == "gs://bucket/runs"
