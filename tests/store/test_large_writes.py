"""Large objects go past the page cache where the file system can; their bytes are the same."""

import errno
import fcntl
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.errors import StoreRefusedError
from runner.store import disk
from runner.store.filesystem import FileStore

MIB = 1 << 20
PIECES = {
    "a pack of many small tensors": [
        *range(1, 4000, 3),
        5 * MIB,
        9 * MIB + 1,
        0,
        17,
        *[640] * 2000,
    ],
    "a whole number of buffers": [8 * MIB],
    "a whole number of blocks": [8 * MIB, 4096],
    "a byte too many": [8 * MIB, 1],
    "a byte too few": [1, 8 * MIB - 2],
    "too small to go past the cache": [*[100] * 3000, 3 * MIB],
}
pytestmark = pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no O_DIRECT")


def pieces(sizes: Sequence[int]) -> list[bytes]:
    random = np.random.default_rng(1)
    return [random.bytes(size) for size in sizes]


def stubborn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not know of it."""
    real = fcntl.fcntl

    def refuse(file: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(file, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)


def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that takes the flag, and then no write."""
    real = os.write

    def refuse(file: int, data: Any) -> int:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(file, data)

    monkeypatch.setattr(os, "write", refuse)


def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that take only a part, in whole blocks where they must be."""
    write, writev = os.write, os.writev
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: MIB - 4096]))
    monkeypatch.setattr(
        os, "writev", lambda file, data: writev(file, [data[0], *(one[:5] for one in data[1:2])])
    )


def as_it_is(_: pytest.MonkeyPatch) -> None:
    """This machine's own file system."""


@pytest.mark.parametrize("how", [as_it_is, stubborn, late, hasty], ids=lambda how: how.__name__)
@pytest.mark.parametrize("name", PIECES)
def test_what_was_put_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    how: Callable[[pytest.MonkeyPatch], None],
) -> None:
    data = pieces(PIECES[name])
    how(monkeypatch)
    store = FileStore(tmp_path)
    store.put("packs/one", data)
    monkeypatch.undo()
    assert store.read("packs/one") == b"".join(data)
    assert store.list("") == ["packs/one"]
    assert [path.name for path in (tmp_path / "packs").iterdir()] == ["one"]


def test_whole_blocks_go_past_the_cache_and_the_rest_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    write, writev = os.write, os.writev

    def past_cache(file: int) -> bool:
        return bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT)

    def look(file: int, data: Any) -> int:
        seen.append((past_cache(file), len(data)))
        return write(file, data)

    def look_at_all(file: int, data: Any) -> int:
        seen.append((past_cache(file), sum(map(len, data))))
        return writev(file, data)

    monkeypatch.setattr(os, "write", look)
    monkeypatch.setattr(os, "writev", look_at_all)
    FileStore(tmp_path).put("one", b"x" * (8 * MIB + 5000))
    if not seen[0][0]:
        pytest.skip(f"the file system of {tmp_path} has no writes past the page cache")
    assert seen == [*[(True, 2 * MIB)] * 4, (True, 4096), (False, 904)]


def test_a_forked_process_writes_from_memory_of_its_own(tmp_path: Path) -> None:
    """Else two processes that write at once would mix their bytes."""
    store = FileStore(tmp_path)
    store.put("ours", b"o" * (8 * MIB))
    if not disk._buffers:
        pytest.skip(f"the file system of {tmp_path} has no writes past the page cache")
    before = [bytes(buffer[:1]) for buffer in disk._buffers]
    child = os.fork()
    if not child:
        try:
            store.put("theirs", b"t" * (8 * MIB))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert store.read("theirs") == b"t" * (8 * MIB)
    assert [bytes(buffer[:1]) for buffer in disk._buffers] == before


def test_a_full_disk_in_the_middle_shows_no_part_of_an_object(tmp_path: Path) -> None:
    """The limit on file sizes stands in for the disk's end."""
    store = FileStore(tmp_path)
    store.put("there", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for end in (MIB, 4 * MIB, 9 * MIB + 100, 10 * MIB):
        resource.setrlimit(resource.RLIMIT_FSIZE, (end, hard))
        try:
            with pytest.raises(StoreRefusedError, match="ulimit -f"):
                store.put("there", b"x" * (10 * MIB + 1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert store.read("there") == b"before"
        assert [path.name for path in tmp_path.iterdir()] == ["there"]
