"""How much of the data that a job reads has come: told to whoever runs the job.

Data sets are read deep inside of a stage, by functions that know of no job.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STAGE = "reading data"  #: as a heartbeat and a progress name it; their steps are then megabytes


@dataclass(frozen=True, kw_only=True)
class Received:
    """One look at data that are being read."""

    done: int  #: bytes
    total: int  #: bytes
    seconds_left: float | None  #: as long as the rest takes at the speed so far


Tell = Callable[[Received], None]
_listener: Tell = lambda _: None  # noqa: E731 - nobody, until somebody wants to know
_running: "Receiving | None" = None


@contextmanager
def told_to(tell: Tell) -> Iterator[None]:
    """Tell what is received in here; one listener at a time, as a process runs one stage."""
    global _listener
    before, _listener = _listener, tell
    try:
        yield
    finally:
        _listener = before


@contextmanager
def receiving(total: int) -> "Iterator[Receiving]":
    """Count what is received in here; what is counted inside of another count is part of it."""
    global _running
    if _running is not None:
        yield _running
        return
    _running = Receiving(total)
    try:
        yield _running
    finally:
        _running = None


class Receiving:
    """A count of bytes."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._had = 0
        self._began = time.monotonic()

    def add(self, count: int, *, new: bool = True) -> None:
        """Count bytes; those that were here already are not `new`: they say nothing of the speed.

        With 0 it is a sign of life.
        """
        self.reach(self._done + count, new=new)

    def reach(self, done: int, *, new: bool = True) -> None:
        """Let the count be at least so many bytes."""
        if not new:
            self._had += done - self._done
        self._done = max(self._done, min(done, self._total))
        came, seconds = self._done - self._had, time.monotonic() - self._began
        left = (self._total - self._done) * seconds / came if came > 0 else None
        _listener(Received(done=self._done, total=self._total, seconds_left=left))
