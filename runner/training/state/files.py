"""An open file is put back to its length and position, as it was when the checkpoint was taken."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np

from runner.checkpoint.plain import Array, NotPlainError

MOST_BYTES = 64 * 2**20  #: of a file's content that travel in a checkpoint; longer ones are cut


def is_standard(file: Any) -> bool:
    """Whether it is a stream of the process, or done with: nobody's state."""
    streams = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if file in streams:
        return True
    if file.closed:
        return not _is_written(file) or not os.path.isfile(file.name)  # noqa: PTH113
    return not stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def _is_written(file: Any) -> bool:
    return isinstance(file.name, str | bytes) and bool(set("wax+") & set(file.mode))


def look(file: Any) -> tuple[int | None, int, Array | None]:
    """Return a file's position (None: closed), length, and content if it is written and short."""
    writable = not file.closed and file.writable()
    if writable:
        file.flush()
    length = os.stat(file.name if file.closed else file.fileno()).st_size  # noqa: PTH116
    carried = (file.closed or writable) and length <= MOST_BYTES
    content = _read(file, length) if carried else None
    return None if file.closed else file.tell(), length, content


def _read(file: Any, length: int) -> Array:
    if not isinstance(file.name, str | bytes):
        raise NotPlainError(f"a file without a name ({file.name!r})")
    with open(file.name, "rb") as again:  # noqa: PTH123 - bytes are names too
        mine = None if file.closed else os.fstat(file.fileno())
        if mine is not None and not os.path.samestat(os.fstat(again.fileno()), mine):
            raise NotPlainError(f"{file.name!r} is another file than the open one")
        return np.frombuffer(again.read(length), dtype=np.uint8)


def put_back(file: Any, position: int | None, length: int, content: Array | None) -> None:
    """Make a file what another was; one that is closed here stays closed.

    Raises:
        NotPlainError: its content is not here; the text gives how much is missing.
    """
    if file.closed:
        if content is not None:
            Path(os.fsdecode(file.name)).write_bytes(content.tobytes())
        return
    if file.writable():
        file.flush()
        descriptor = file.fileno()
        if content is not None:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            _write(descriptor, memoryview(content.tobytes()))
        here = os.fstat(descriptor).st_size
        if here < length:
            raise NotPlainError(
                f"{length - here} of its {length} bytes are not in {file.name}: files of more "
                f"than {MOST_BYTES // 2**20} MiB are cut to their length, not carried"
            )
        os.ftruncate(descriptor, length)
    file.seek(length if position is None else position)


def _write(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
