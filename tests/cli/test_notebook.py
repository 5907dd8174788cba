"""The notebooks are valid, hold what they promise, and run from the first cell to the last."""

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from runner.cli import notebook as module
from runner.cli.live import in_notebook
from runner.cli.main import main
from runner.cli.notebook import FOLDER, make
from runner.errors import SpecError
from runner.store.filesystem import open_store
from tests.cli.notebooks import JOB, SPECS, execute, outputs_of, text_of
from tests.harness import REPOSITORY, Runner, sets
from tests.store.servers import serving

STORES = ("", "gs://bucket/runs", "s3://bucket/runs", "az://box/runs")


@pytest.mark.parametrize("platform", ["colab", "kaggle"])
@pytest.mark.parametrize("store", STORES)
def test_each_is_valid_and_complete(platform: str, store: str) -> None:
    notebook = make(platform, SPECS, store=store, requirement="git+https://x/y.git")
    nbformat.validate(nbformat.from_dict(notebook))  # type: ignore[no-untyped-call]
    text = text_of(notebook)
    assert "{{" not in text
    for part in ("%pip install", "RUNNER_STORE", '"doctor"', '"work"', '"status"', '"report"'):
        assert part in text, f"no {part}"
    assert not store or json.dumps(store) in text
    client = ' "s3fs>=2024.12"' if store.startswith("s3") else ""
    assert f'%pip install --quiet "git+https://x/y.git"{client}\n' in text
    assert ("account" in text_of({"cells": notebook["cells"][2:]})) == store.startswith(
        ("gs", "s3")
    )
    assert "another account" not in text
    code = [line for line in text_of(notebook, "code").splitlines() if not line.startswith("%")]
    ast.parse("\n".join(code))


def test_what_drive_and_the_working_folder_cannot_promise_is_said() -> None:
    colab = text_of(make("colab", SPECS, store="", requirement="x"))
    assert "One session at a time" in colab
    assert colab.rstrip().endswith("drive.flush_and_unmount()")
    kaggle = text_of(make("kaggle", SPECS, store="", requirement="x"))
    assert "Save Version" in kaggle
    assert "No other machine can see it" in kaggle


def test_only_a_bucket_is_elsewhere_on_kaggle() -> None:
    for store in ("", "/kaggle/working/mine", "gs://bucket/runs"):
        text = text_of(make("kaggle", SPECS, store=store, requirement="x"))
        assert ("live elsewhere" in text) == (store == "gs://bucket/runs")
        assert ("session's own disk: they go with it" in text) == (store != "gs://bucket/runs")


@pytest.mark.parametrize(
    ("platform", "store", "known"),
    [
        ("colab", "/tmp/x", False),
        ("colab", "runs", False),
        ("colab", "file:///tmp/x", False),
        ("colab", "/content/drive/../x", False),
        ("kaggle", "/content/drive/MyDrive/x", False),
        ("colab", "/content/drive/MyDrive/x", True),
        ("kaggle", "file:///kaggle/working/x", True),
    ],
)
def test_a_folder_of_this_machine_is_no_store_of_a_notebook(
    platform: str, store: str, known: bool
) -> None:
    if known:
        text = text_of(make(platform, SPECS, store=store, requirement="x"))
        assert f'["RUNNER_STORE"] = "{store.removeprefix("file://")}"' in text
        assert ("drive.mount" in text) == (platform == "colab")
        return
    with pytest.raises(SpecError, match="a folder of this machine"):
        make(platform, SPECS, store=store, requirement="x")


def test_a_notebook_with_other_content_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless -o names it; the same one is written again."""
    monkeypatch.chdir(tmp_path)
    command = ["notebook", "colab", "--install", "x"]
    assert [main(command), main(command)] == [0, 0]
    path = tmp_path / "runner-colab.ipynb"
    path.write_text("mine")
    assert main(command) == 2
    assert "-o runner-colab.ipynb writes over it" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main([*command, "-o", path.name]) == 0
    assert path.read_text() != "mine"


def test_what_is_required_is_named_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["notebook"])
    assert "are required: platform\n" in capsys.readouterr().err


def test_no_credentials_get_into_a_notebook() -> None:
    with pytest.raises(SpecError, match="no credentials"):
        make("colab", SPECS, store="sftp://me:secret@nas/runs", requirement="x")


@pytest.mark.parametrize("platform", ["colab", "kaggle"])
@pytest.mark.parametrize("said", ["variable", "settings", "AWS"])
def test_a_server_of_ones_own_is_in_the_notebook_and_its_keys_are_not(
    platform: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cell sets, and the keys from the platform's secrets, open the store."""
    with serving("s3") as server:
        url, options = server.url("runs"), server.options
        settings = {"stores": {url: {"storage_options": options}}}
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        given = {
            "variable": ("RUNNER_STORAGE_OPTIONS", json.dumps(options)),
            "settings": ("RUNNER_SETTINGS", str(tmp_path / "settings.json")),
            "AWS": ("AWS_ENDPOINT_URL", options["endpoint_url"]),
        }
        with monkeypatch.context() as here:
            here.setenv(*given[said])
            notebook = make(platform, SPECS, store=url, requirement="x")
        assert options["secret"] not in json.dumps(notebook)
        cell = next(
            text
            for one in notebook["cells"]
            if "SECRET" in (text := "".join(one["source"])) and "import" in text
        )
        keys = {"AWS_ACCESS_KEY_ID": options["key"], "AWS_SECRET_ACCESS_KEY": options["secret"]}
        code = re.sub(r"(?m)^from .*", "", cell)
        code = code.replace("UserSecretsClient().get_secret(name)", "keys[name]")
        for name in (*keys, "RUNNER_STORE", "RUNNER_STORAGE_OPTIONS", "RUNNER_DATA_FROM"):
            monkeypatch.setenv(name, "")  # set back at the end of the test
        monkeypatch.delenv("RUNNER_STORAGE_OPTIONS")
        exec(code.replace("userdata.get(name)", "keys[name]"), {"keys": keys})
        assert os.environ["RUNNER_STORE"] == url
        open_store(url).put("a.bin", b"there")
        assert server.store("runs").read("a.bin") == b"there"


def test_an_endpoint_with_credentials_gets_into_no_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"endpoint_url": "http://minio.lab:9000", "key": "ann", "secret": "sesame"}
    monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", json.dumps(options))
    assert "minio.lab" in json.dumps(make("colab", SPECS, store="s3://b/runs", requirement="x"))
    said = capsys.readouterr().err
    assert "does not have the storage options" in said
    assert "sesame" not in said
    options["endpoint_url"] = "http://ann:sesame@minio.lab:9000"
    monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", json.dumps(options))
    with pytest.raises(SpecError, match="holds credentials"):
        make("colab", SPECS, store="s3://b/runs", requirement="x")


@pytest.mark.parametrize(
    ("requirement", "line"),
    [
        ("keras-runner[ray]>=0.1", '"keras-runner[ray]>=0.1" "s3fs>=2024.12"'),
        ("git+https://x/y.git", '"git+https://x/y.git" "s3fs>=2024.12"'),
    ],
)
def test_the_stores_client_is_installed_too(requirement: str, line: str) -> None:
    notebook = make("colab", SPECS, store="s3://bucket/runs", requirement=requirement)
    assert f"%pip install --quiet {line}" in text_of(notebook)


def test_kaggle_is_asked_for_a_gpu_and_internet() -> None:
    """As the metadata of a notebook say that was downloaded from there."""
    asked = make("kaggle", SPECS, store="", requirement="x")["metadata"]["kaggle"]
    assert asked["isInternetEnabled"] is asked["isGpuEnabled"] is True
    assert asked["accelerator"] == "nvidiaTeslaT4"


def test_a_runner_that_was_never_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PACKAGE", "no-such-package")
    assert main(["notebook", "colab"]) == 2
    assert "From your clone: pip install ." in capsys.readouterr().err
    assert main(["notebook", "colab", "--install", "git+https://x/y.git"]) == 0


def test_it_holds_the_jobs_that_are_given(tmp_path: Path) -> None:
    """All of a sweep, with what --set changes; what the notebook lacks is said."""
    (tmp_path / "odd-1.dist-info").mkdir()
    (tmp_path / "odd-1.dist-info/METADATA").write_text("Name: odd\nVersion: 1\n")
    (tmp_path / "odd-1.dist-info/entry_points.txt").write_text("[runner.models]\nodd = odd\n")
    (tmp_path / "odd.py").write_text("def build(*, input_shape, classes): ...")
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    runner = Runner(tmp_path / "store", environment={"PYTHONPATH": paths})
    job = tmp_path / "mine.json"
    job.write_text(
        json.dumps({**JOB, "$schema": "./.schema.json", "sweep": [{"name": "a"}, {"name": "b"}]})
    )
    (tmp_path / "x.npz").touch()
    path = tmp_path / "runner-colab.ipynb"
    fields = {"training.epochs": 7, "data": {"name": "npz", "path": str(tmp_path / "x.npz")}}
    fields |= {"requirements": {"labels": ["lab"], "devices": 2}, "after": ["first"]}
    changes = sets({**fields, "model": {"name": "odd"}})
    done = runner.run("notebook", "colab", str(job), *changes, "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert "a stays queued there: the notebook's worker has no label 'lab'" in done.stderr
    assert "stays queued there: colab has no more GPUs than 1" in done.stderr
    assert "waits for 'first', which is no job of the notebook" in done.stderr
    assert f"data.path {tmp_path / 'x.npz'} is of this machine" in done.stderr
    assert "'odd' is of the package odd" in done.stderr
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    given: dict[str, Any] = {}
    exec(cell.source, given)
    jobs = {job["name"]: job["training"]["epochs"] for job in given["jobs"]}
    assert jobs == {"a": 7, "b": 7}
    (tmp_path / "a.json").write_text(json.dumps(given["jobs"][0]))
    runner.ok(
        "validate", str(tmp_path / "a.json"), "--set", "data.name=digits", "--set", "data.path=null"
    )


@pytest.mark.parametrize(
    "options", [["-o", ""], ["--store", ""], ["--install", '${HOME}"'], ["--install", "a\nb"]]
)
def test_what_no_notebook_could_use_is_refused(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["notebook", "colab", *options]) == 2
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.ipynb"
    runner = Runner(tmp_path)
    said = runner.ok("notebook", "kaggle", "-o", str(path), "--install", "git+https://x/y.git")
    assert said.strip() == str(path)
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    assert '%pip install --quiet "git+https://x/y.git"' in text_of(notebook)


def test_the_texts_are_in_the_package() -> None:
    """What is beside a module inside the package goes into the wheel."""
    assert {path.stem for path in FOLDER.glob("*.md")} >= {"colab", "kaggle", "work", "other"}
    assert FOLDER.is_relative_to(REPOSITORY / "runner")


def test_a_notebook_is_told_from_a_terminal() -> None:
    assert in_notebook({"RUNNER_IN_PLACE": "1"})
    assert in_notebook({"JPY_PARENT_PID": "7", "TERM": "xterm-color"})
    assert not in_notebook({"TERM": "xterm-256color"})
    assert not in_notebook({"JPY_PARENT_PID": "7", "TERM": "linux"})


def test_a_command_and_a_page_show_below_their_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a real kernel, without a training."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path / "store"))
    (tmp_path / "page.html").write_text('<p>it\'s "here"</p>')
    cells = ('import runner; runner.run("status");', 'runner.show("page.html")')
    said, shown = outputs_of(tmp_path, *cells)
    assert "no jobs" in said
    assert "execute_result" not in said
    assert 'srcdoc="&lt;p&gt;' in shown


@pytest.mark.slow
def test_it_carries_the_package(kernel: str, tmp_path: Path) -> None:
    """A new machine without an index gets this very runner, its user's networks among it."""
    notebook = make("kaggle", SPECS, store="", requirement="")
    assert len(json.dumps(notebook)) < 960_000  # Kaggle takes a megabyte
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    last = next(number for number, text in enumerate(texts) if '"submit"' in text)
    quick = json.loads(json.dumps(notebook["cells"][: last + 1]).replace("doctor", "--version"))
    execute({**notebook, "cells": quick}, kernel, tmp_path)
    (installed,) = tmp_path.glob("environment/lib/python*/site-packages/runner")
    mine = REPOSITORY / "runner"
    for path in mine.rglob("*.*"):
        if path.suffix != ".pyc":
            assert (installed / path.relative_to(mine)).read_bytes() == path.read_bytes()
    job = Runner(tmp_path / "store").job("small")
    assert job is not None
    assert job.state.value == "queued"
