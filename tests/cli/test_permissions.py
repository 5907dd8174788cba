"""A store, or one job of it, that this user may not read: told in a sentence, others go on."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.cli import common
from runner.queue.queue import Queue
from runner.store.filesystem import open_store
from tests.cli.conftest import Run
from tests.harness import QUICKSTART

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="takes root's privileges from a thread, as Linux alone can"
)
_VERSION, _DAC_OVERRIDE, _DAC_READ_SEARCH = 0x20080522, 1 << 1, 1 << 2  # linux/capability.h
COMMANDS = [
    ("status",), ("status", "one"), ("status", "--json"), ("status", "--workers"),
    ("status", "--match", "t*"), ("submit", str(QUICKSTART), "--detach"), ("hold", "one"),
    ("logs", "one"), ("report", "one"), ("report",), ("du",), ("remove", "one", "--yes"),
    ("work", "--until-empty"), ("resume", "one"), ("doctor",), ("compare", "one", "two"),
]  # fmt: skip


@contextmanager
def without_privileges() -> Iterator[None]:
    """Let permissions count for this thread and those that it starts, also where it is root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@pytest.fixture
def store(queue: Queue, tmp_path: Path) -> Iterator[Path]:
    for name in ("one", "two"):
        queue.submit(name, {"name": name, "data": {"name": "digits"}})
        queue.hold(name)
    yield tmp_path
    for folder in (tmp_path, tmp_path / "jobs/one"):
        folder.chmod(0o755)


@pytest.mark.parametrize("inner", ["", "inner"])
def test_a_store_that_may_not_be_read_is_told(
    store: Path, inner: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_STORE", str(store / inner))
    store.chmod(0)
    for command in COMMANDS:
        monkeypatch.setattr(common, "_named", {})
        with without_privileges():
            code, out, said = run(*command)
        assert (code, "Permission denied" in out + said) == (6, True), (command, out, said)


def test_a_job_that_may_not_be_read_keeps_no_other_from_being_worked_on(
    store: Path, run: Run
) -> None:
    queue = Queue(open_store(str(store)))
    queue.submit("three", {"name": "three", "requirements": {"labels": ["elsewhere"]}})
    (store / "jobs/one").chmod(0)
    for command in COMMANDS:
        if command[0] == "submit":
            continue
        with without_privileges():
            code, out, said = run(*command)
        words = " ".join((out + said).split())
        if "one" in command or command in (("status",), ("status", "--json"), ("doctor",)):
            assert any(
                each in words for each in ("Permission denied", "cannot be read", "unreadable")
            ), (command, words)
        if command[0] == "work":
            assert "three: left" in words
        assert code in (0, 4, 6), (command, code, words)
    assert queue.job("two").state.value == "held"


def test_a_job_that_may_not_be_read_keeps_no_other_from_being_repaired(
    store: Path, run: Run
) -> None:
    records = [store / f"jobs/{name}/log/000000000001.json" for name in ("one", "two")]
    for name, record in zip(("one", "two"), records, strict=True):
        late = record.read_bytes()
        queue = Queue(open_store(str(store)))
        queue.cancel(name)
        queue.remove(name)
        queue.submit(name, {"name": name, "data": {"name": "cifar100"}})
        record.write_bytes(late)
    (store / "jobs/one").chmod(0)
    with without_privileges():
        _, out, _ = run("doctor", "--repair")
    assert "two: jobs/two/log/000000000001.json was written late" in " ".join(out.split())
    assert not records[1].exists()
    (store / "jobs/one").chmod(0o755)
    assert records[0].exists()
