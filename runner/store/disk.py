"""Bytes onto a disk, at little cost to the processor: large files go past the page cache.

Needs nothing but the standard library, as `filesystem.py`, whose objects it writes.
"""

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

_LARGE = 1 << 23  # bytes; what is written past the page cache
_BUFFER_BYTES = 1 << 21  # of what is on its way there
_BLOCK = 4096  # bytes; what file systems want there in whole
_GROUP_PIECES = 512  # of one system call; Linux takes 1024, others fewer
_GROUP_BYTES = 1 << 26  # of one system call; some take no 2 GiB
_buffers: list[memoryview] = []  # not in use: one for each thread that wrote at the same time
_NOT_PAST_CACHE = {errno.EINVAL, errno.EOPNOTSUPP}


def write_all(file: int, data: Sequence[memoryview]) -> None:
    """Write all pieces to an open file, one after the other.

    Raises:
        OSError: as the system says; part of them may be written.
    """
    if sum(map(len, data)) >= _LARGE and _bypass_cache(file, True):
        _write_blocks(file, data)
    else:
        _write_gathered(file, data)


def _write_gathered(file: int, data: Iterable[memoryview]) -> None:
    """Write all pieces, none of them copied: a pack has a thousand, most of some bytes."""
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


def _write_blocks(file: int, data: Iterable[memoryview]) -> None:
    """Write past the page cache: in whole blocks, from memory that is aligned to them.

    Pages for 69 MB took the processor 15 to 150 ms, most where a virtual machine gets its memory
    only now; this takes 8. What is read next, the training's data, stays in the cache.
    """
    try:
        buffer = _buffers.pop()
    except IndexError:
        buffer = _new_buffer()
    try:
        _write_through(buffer, file, data)
    finally:
        _buffers.append(buffer)


def _new_buffer() -> memoryview:
    """Return memory that begins at a page, and that a forked process has a copy of."""
    return memoryview(mmap.mmap(-1, _BUFFER_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _write_through(buffer: memoryview, file: int, data: Iterable[memoryview]) -> None:
    filled = 0
    for piece in data:
        while len(piece):
            taken = min(len(piece), len(buffer) - filled)
            buffer[filled : filled + taken] = piece[:taken]
            filled, piece = filled + taken, piece[taken:]
            if filled == len(buffer):
                _write_whole(file, buffer)
                filled = 0
    blocks = filled - filled % _BLOCK
    _write_whole(file, buffer[:blocks])
    _bypass_cache(file, False)
    _write_gathered(file, [buffer[blocks:filled]])


def _write_whole(file: int, blocks: memoryview) -> None:
    while len(blocks):
        try:
            blocks = blocks[os.write(file, blocks) :]
        except OSError as error:
            # a file system that only says now that it can't
            if error.errno not in _NOT_PAST_CACHE or not _bypass_cache(file, False):
                raise


def _bypass_cache(file: int, wanted: bool) -> bool:
    """Let writes go past the page cache or not; whether that made a difference.

    Source: open(2), O_DIRECT; set on the open file, where a refusal leaves nothing behind.
    """
    if not hasattr(os, "O_DIRECT"):
        return False
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    new = flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, new)
    except OSError:
        return False
    return new != flags
