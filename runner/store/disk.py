"""Many pieces of memory onto a disk, none of them copied."""

import os
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

_GROUP_PIECES = 512  # of one system call; Linux takes 1024, others fewer
_GROUP_BYTES = 1 << 26  # of one system call; some take no 2 GiB


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
