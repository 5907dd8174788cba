"""Exit codes: what a script or a scheduler does next."""

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
