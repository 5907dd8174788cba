"""A folder shows whole objects only, with and without hard links, whoever dies in between."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.errors import StoreError, StoreRefusedError
from runner.store.base import Created
from runner.store.filesystem import FileStore
from tests.store.racing import race_in_threads
from tests.store.test_race import check


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("without_links")
def test_without_hard_links_the_contract_holds(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    assert store.create("log/0.json", b"first\n") is Created.YES
    assert store.create("log/0.json", b"second\n") is Created.EXISTS
    assert FileStore(tmp_path).read("log/0.json") == b"first\n"
    assert store.list("") == ["log/0.json"]
    assert store.folders("log/") == []
    assert store.size("log/0.json") == 6
    assert store.age("log/0.json") is not None
    assert store.read_range("log/0.json", 1, 2) == b"ir"
    store.put("log/0.json", b"put\n")
    assert store.read("log/0.json") == b"put\n"
    store.put("log/1.json", b"file")
    assert store.create("log/1.json", b"x") is Created.EXISTS
    assert store.list("log/") == ["log/0.json", "log/1.json"]
    store.delete("log/0.json")
    assert store.list("log/") == ["log/1.json"]
    assert not [path for path in (tmp_path / "log").iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("without_links")
def test_without_hard_links_racers_have_one_winner(tmp_path: Path) -> None:
    check(race_in_threads(FileStore(tmp_path), 100), 100)


def test_processes_with_and_without_links_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    store.create("linked", b"1")
    monkeypatch.setattr(store, "_links", False)
    assert store.create("linked", b"2") is Created.EXISTS
    store.create("moved", b"1")
    assert FileStore(tmp_path).create("moved", b"2") is Created.EXISTS
    assert FileStore(tmp_path).read("moved") == b"1"


WRITER = """
import sys
from runner.store.filesystem import FileStore
store = FileStore(sys.argv[1])
n = 0
while True:
    store.create(f"log/{n:06d}.json", b"x" * 100_000 + b"\\n")
    store.put("head", (b"%07d" % n) * 50_000)
    n += 1
"""


def test_a_killed_writer_leaves_whole_objects(tmp_path: Path) -> None:
    """kill -9 at 8 moments of a writer's life."""
    for number in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / str(number))])
        time.sleep(0.25 + 0.03 * number)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        store = FileStore(tmp_path / str(number))
        keys = store.list("log/")
        assert keys == [f"log/{n:06d}.json" for n in range(len(keys))]
        assert all(store.size(key) == 100_001 for key in keys)
        head = store.read("head")
        if head is not None:
            assert head == head[:7] * 50_000


def test_a_reader_never_sees_a_part_while_an_object_is_replaced(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    store, seen = FileStore(tmp_path), set()
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            head = store.read("head")
            assert head is None or head == head[:7] * 50_000
            seen.add((head or b"")[:7])
    finally:
        writer.kill()
        writer.wait()
    assert len(seen) > 3


def test_what_killed_writers_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    old, young = (tmp_path / f"packs/.tmp-{digit * 16}" for digit in "01")
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    store = FileStore(tmp_path)
    assert store.list("packs/") == []
    store.put("packs/new", b"1")
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("linked", ["a", "a/b", "a/b/c.json"])
def test_no_link_is_followed(tmp_path: Path, linked: str) -> None:
    """Not in reading, listing, writing or deleting: it might lead to a file of the user's own."""
    outside = tmp_path / "outside/b" if linked == "a" else tmp_path / "outside"
    outside.mkdir(parents=True)
    (outside / "c.json").write_text("mine")
    target = {"a": outside.parent, "a/b": outside, "a/b/c.json": outside / "c.json"}[linked]
    place = tmp_path / "store" / linked
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    store = FileStore(tmp_path / "store")
    for act in (
        lambda: store.read("a/b/c.json"),
        lambda: store.size("a/b/c.json"),
        lambda: store.read_range("a/b/c.json", 0, 2),
        lambda: store.put("a/b/c.json", b"theirs"),
        lambda: store.delete("a/b/c.json"),
        lambda: store.create("a/b/c.json", b"theirs"),
    ):
        with pytest.raises(StoreRefusedError, match="is a symbolic link"):
            act()
    assert store.list("") == []
    assert [path.name for path in outside.iterdir()] == ["c.json"]
    assert (outside / "c.json").read_text() == "mine"


def test_links_do_not_lead_out_of_the_store(tmp_path: Path) -> None:
    """A listing follows no folder that someone linked into the store."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    store = FileStore(tmp_path / "store")
    store.put("a", b"1")
    (tmp_path / "store/linked").symlink_to(outside)
    assert "linked/secret" not in store.list("")
    assert store.folders("") == []


@pytest.mark.parametrize("write", ["create", "put"])
def test_what_was_answered_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Content first, then the name: the file is synced before it is named, its folder after."""
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").resolve()
        kind = "folder" if place.is_dir() else "file"
        synced.append((f"{kind} {place.parent if kind == 'file' else place}", named()))
        sync(descriptor)

    def named() -> bool:
        return (tmp_path / "a" / "key").exists()

    monkeypatch.setattr(os, "fsync", watched)
    getattr(FileStore(tmp_path), write)("a/key", b"content")
    assert synced[-2:] == [(f"file {tmp_path / 'a'}", False), (f"folder {tmp_path / 'a'}", True)]
    assert (f"folder {tmp_path}", False) in synced, "the new folder's own name"


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "no" / "such")
    assert store.list("") == []
    assert store.folders("jobs/") == []
    assert store.read("a") is None
    assert store.age("a") is None
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreRefusedError, match="fix the permissions"):
        FileStore(tmp_path).put("a", b"1")


def test_a_file_in_the_way_of_a_folder_is_said(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("a", b"1")
    with pytest.raises(StoreError):
        store.put("a/b", b"1")
    assert store.read("a/b") is None
