"""Commands on a store, in this process. Each begins like a process: no store was named yet."""

import json
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.cli import common
from runner.cli.main import main
from runner.queue.queue import Queue
from runner.store.filesystem import open_store
from tests.harness import ENVIRONMENT

GONE = {"host": "elsewhere", "pid": 7}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "_named", {})


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path))
    return Queue(open_store(str(tmp_path)))


@pytest.fixture
def run(queue: Queue, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the kernel of a new environment: what runner needs, without runner or an index."""
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    (found,) = home.glob("lib/python*/site-packages")
    (found / "packages.pth").write_text(sysconfig.get_path("purelib"))
    argv = [str(home / "bin/python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    place = tmp_path / "jupyter/kernels/new"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "new", "language": "python"})
    )
    variables = {**ENVIRONMENT, "RUNNER_STORE": str(tmp_path / "store"), "PIP_NO_INDEX": "1"}
    for name, value in {**variables, "JUPYTER_PATH": str(tmp_path / "jupyter")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return "new"
