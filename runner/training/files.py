"""An open file is put back to its length and position, as it was when the checkpoint was taken."""

import io
import os
import stat
import sys
from typing import Any

import numpy as np

from runner.checkpoint.plain import Array, NotPlainError

MOST_BYTES = 64 * 2**20  #: of a file's content that travel in a checkpoint; longer ones are cut


def is_standard(file: Any) -> bool:
    """Whether it is a stream of the process: nobody's state."""
    streams = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return file in streams or file.closed or not stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def look(file: Any) -> tuple[int, int, Array | None]:
    """Return an open file's position, its length, and its content if it is written and short."""
    if file.writable():
        file.flush()
    length = os.fstat(file.fileno()).st_size
    content = None
    if file.writable() and length <= MOST_BYTES:
        content = _read(file, length)
    return file.tell(), length, content


def _read(file: Any, length: int) -> Array:
    if not isinstance(file.name, str | bytes | os.PathLike):
        raise NotPlainError(f"a file without a name ({file.name!r})")
    with open(file.name, "rb") as again:  # noqa: PTH123 - bytes are names too
        if not os.path.samestat(os.fstat(again.fileno()), os.fstat(file.fileno())):
            raise NotPlainError(f"{file.name} is another file than the open one")
        return np.frombuffer(again.read(length), dtype=np.uint8)


def put_back(file: Any, position: int, length: int, content: Array | None) -> None:
    """Make an open file what another was.

    Raises:
        NotPlainError: its content is not here; says how much is missing.
    """
    if file.closed:
        raise NotPlainError("the file is closed now")
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
    file.seek(position)


def _write(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def look_in_memory(file: io.StringIO | io.BytesIO) -> dict[str, Any]:
    """Return the content and position of a file that is in memory only."""
    return {"content": file.getvalue(), "position": file.tell()}
