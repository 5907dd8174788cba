"""Commands on a store, in this process. Each begins like a process: no store was named yet."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.cli import common
from runner.cli.main import main
from runner.queue.queue import Queue
from runner.store.filesystem import open_store

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
