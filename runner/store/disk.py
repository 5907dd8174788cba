"""Bytes to a disk and back: many pieces of memory, none of them copied; a file under two names."""

import errno
import os
import shutil
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

_GROUP_PIECES = 512  # of one system call; Linux takes 1024, others fewer
_GROUP_BYTES = 1 << 26  # of one system call; some take no 2 GiB
_ONE_READ = 0x7FFFF000  # bytes that Linux reads at once, at most


def write_all(file: int, data: Sequence[memoryview]) -> None:
    """Write all pieces to an open file, one after the other.

    Raises:
        OSError: as the system says; part of them may be written.
    """
    waiting = deque(piece for piece in data if len(piece))
    while waiting:
        written = os.writev(file, _group(waiting))
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.popleft())
        if written:
            waiting[0] = waiting[0][written:]


def _group(pieces: Iterable[memoryview]) -> list[memoryview]:
    """Return the first pieces, as many as one system call takes."""
    group: list[memoryview] = []
    left = _GROUP_BYTES
    for piece in islice(pieces, _GROUP_PIECES):
        group.append(piece[:left])
        left -= len(piece)
        if left <= 0:
            break
    return group


def read_exactly(file: int, length: int) -> bytes:
    """Return `length` bytes, fewer only at the end of the file."""
    parts: list[bytes] = []
    while length > 0 and (part := os.read(file, min(length, _ONE_READ))):
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def linked_or_copied(source: Path, target: Path) -> None:
    """Let an empty file be another one: by a hard link, else by a copy that is on the disk."""
    try:
        target.unlink()
        os.link(source, target)
        os.utime(target)  # of both names: nobody takes the new one for an old leftover
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        with target.open("rb+") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a power cut."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some systems sync no folders
            raise
    finally:
        os.close(file)
