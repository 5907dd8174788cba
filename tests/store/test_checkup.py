"""What `runner doctor` finds out about a store: real faults are found, sound stores pass."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from runner.commit import Commit
from runner.errors import DamagedRecordError
from runner.queue.queue import Queue
from runner.store import log
from runner.store.base import Buffer, Store
from runner.store.checkup import Finding, Verdict, check_up
from runner.store.filesystem import FileStore
from tests.harness import few
from tests.store.memory import MemoryStore
from tests.store.servers import serving

NAMES = [
    "access",
    "create-if-absent",
    "read after write",
    "listing",
    "small objects",
    "large objects",
    "clock",
    "records",
]


def examine(store: Store) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_up(store)}


def test_a_sound_store_passes_and_is_left_clean(store: Store) -> None:
    found = examine(store)
    assert list(found) == NAMES
    assert {name for name in NAMES if found[name].verdict is Verdict.BAD} == set()
    assert found["create-if-absent"].verdict is Verdict.OK
    assert store.list("probe/") == []
    assert "probe" not in store.folders("")


@pytest.mark.parametrize("kind", few(["s3", "gcs"], 1))
def test_a_store_that_ignores_the_condition_is_bad(kind: str) -> None:
    """And only a drawback where one process at a time was promised."""
    with serving(kind, "--dishonest") as server:
        found = examine(server.store(f"doctor-{token_hex(4)}"))
        assert found["create-if-absent"].verdict is Verdict.BAD
        alone = examine(server.store(f"doctor-{token_hex(4)}", single_writer=True))
        assert alone["create-if-absent"].verdict is Verdict.WARNING


def test_old_and_damaged_records_are_counted_and_named() -> None:
    store = MemoryStore()
    assert examine(store)["records"].text == "no jobs yet"
    queue = Queue(store)
    for name in ("cats", "dogs"):
        queue.claim(queue.submit(name, {"seed": 1}), {"host": "here", "pid": 1})
    sound = Finding("records", Verdict.OK, "4 records of 2 jobs, each with a hash of its own")
    assert examine(store)["records"] == sound
    first, second = store.list("jobs/cats/log/")
    record = log.decode(store.read(first) or b"", first)
    store.put(first, json.dumps(record).encode())
    store.put(second, (store.read(second) or b"").replace(b'"running"', b'"running!'))
    found = examine(store)["records"]
    assert found.verdict is Verdict.WARNING
    assert "1 are of the first versions and have no hash of their own" in found.text
    assert f"1 damaged: {second}. Bring them back from a copy" in found.text
    assert "of one without its newest its copy or the one before counts" in found.text


def test_a_damaged_record_that_no_job_is_read_from_is_told_apart() -> None:
    store = MemoryStore()
    queue = Queue(store)
    lease = queue.claim(queue.submit("cats", {"seed": 1}), {"host": "here", "pid": 1})
    lease.commit(Commit(step=1, epoch=0, checkpoints=[]))
    first, middle, newest = store.list("jobs/cats/log/")
    store.put(middle, b"{")
    assert (job := Queue(store).find("cats")) is not None
    assert job.step == 1
    found = examine(store)["records"]
    assert f"; 1 damaged that only the past tells: {middle}. Its job goes on" in found.text
    assert "Bring them back" not in found.text
    for key in (first, newest):
        store.put(key, b"{")
    assert f"2 damaged: {first}, {newest}. Bring them back" in examine(store)["records"].text


@pytest.mark.parametrize("lost", [0, 2])
def test_a_log_with_a_gap_is_named(lost: int) -> None:
    store = MemoryStore()
    queue = Queue(store)
    for name in ("cats", "dogs"):
        lease = queue.claim(queue.submit(name, {"seed": 1}), {"host": "here", "pid": 1})
        for step in range(3):
            lease.commit(Commit(step=step, epoch=0, checkpoints=[]))
    store.delete(f"jobs/dogs/log/{lost:012d}.json")
    found = examine(store)["records"]
    assert found.verdict is Verdict.WARNING
    assert f"records are gone: dogs lacks record {lost}." in found.text


@pytest.mark.parametrize(
    ("written", "gone", "named"), [(0, 1, 0), (3, 2, 3), (3, 5, 0), (3, 1, None)]
)
def test_records_that_only_the_copy_tells_of_are_named(
    written: int, gone: int, named: int | None
) -> None:
    """But for the newest, which is written again from its copy."""
    store = MemoryStore()
    queue = Queue(store)
    queue.submit("dogs", {"seed": 1})
    if written:
        lease = queue.claim(queue.job("dogs"), {"host": "here", "pid": 1})
        for step in range(written):
            lease.commit(Commit(step=step, epoch=0, checkpoints=[]))
    for key in store.list("jobs/dogs/log/")[-gone:]:
        store.delete(key)
    assert ("dogs lacks record" in examine(store)["records"].text) == (named is not None)
    if named is not None:
        assert f"records are gone: dogs lacks record {named}." in examine(store)["records"].text
    if named:
        with pytest.raises(DamagedRecordError, match=f"the first of them {named}"):
            queue.require_whole("dogs")


class Cached(MemoryStore):
    """Shows what was read before, as a cache does."""

    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[str, bytes | None] = {}

    def read(self, key: str, *, max_bytes: int = 1 << 30) -> bytes | None:
        if key not in self._cache:
            self._cache[key] = super().read(key, max_bytes=max_bytes)
        return self._cache[key]


class Corrupting(MemoryStore):
    """Changes large objects on their way."""

    def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        if isinstance(data, bytes) and len(data) > 1000:
            data = data[:-1] + bytes([data[-1] ^ 1])
        super().put(key, data)


def test_a_cache_is_found() -> None:
    assert examine(Cached())["read after write"].verdict is Verdict.BAD


def test_changed_bytes_are_found() -> None:
    found = examine(Corrupting())["access"]
    assert (found.verdict, "came back changed" in found.text) == (Verdict.BAD, True)


def test_a_folder_that_cannot_be_written_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = examine(FileStore(tmp_path / "file" / "store"))
    assert list(found) == ["access"]
    assert found["access"].verdict is Verdict.BAD


def doctor(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "runner", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_tells_all_and_its_json_is_json(tmp_path: Path) -> None:
    done = doctor("--store", str(tmp_path / "new"), "--json")
    assert done.returncode == 0, done.stderr
    document: list[dict[str, Any]] = json.loads(done.stdout)
    assert [one["name"] for one in document] == [
        *NAMES,
        "store",
        "disk",
        "versions",
        "machine",
        "GPU",
    ]
    assert {one["verdict"] for one in document} <= {"ok", "warning"}


def test_the_command_ends_with_6_where_the_store_is_refused(tmp_path: Path) -> None:
    """The rest is told all the same."""
    done = doctor("--store", "sftp://nas/runs")
    assert done.returncode == 6
    assert "can't hold jobs" in done.stdout
    assert "tensorflow" in done.stdout
    assert "Traceback" not in done.stderr
