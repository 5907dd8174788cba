"""Exit codes: what a script, a scheduler or another process of ours does next."""

from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Documented in the README; 75 is sysexits' EX_TEMPFAIL, "run me again"."""

    DONE = 0
    FAILED = 1  #: a job failed
    USAGE = 2  #: command line or spec
    NOT_FOUND = 3  #: no such job
    UNFINISHED = 4  #: not finished yet: held, or another worker has it
    CANCELLED = 5
    STORAGE = 6  #: bucket or credentials
    PREEMPTED = 75  #: stopped with progress saved
    INTERRUPTED = 130  #: Ctrl-C


#: done, cancelled, unfinished, preempted, storage, usage, failed
_BETTER_FIRST = (0, 5, 4, 75, 6, 2, 1)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code of several workers together; any other than ours is the worst.

    >>> worst([0, 75, 4]), worst([1, -11]), worst([])
    (75, -11, 0)
    """
    ranks = {code: rank for rank, code in enumerate(_BETTER_FIRST)}
    return max(codes, key=lambda code: ranks.get(code, len(ranks)), default=0)
