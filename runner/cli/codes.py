"""Which exit code an error or the states of jobs mean."""

from collections.abc import Iterable

from runner import errors
from runner.exit import Exit
from runner.queue.job import Job, State

#: what an error means for the caller; the first that fits
_OF_ERRORS: tuple[tuple[type[errors.RunnerError], Exit], ...] = (
    (errors.SpecError, Exit.USAGE),
    (errors.ConflictError, Exit.USAGE),
    (errors.NotReadyError, Exit.UNFINISHED),
    (errors.NotFoundError, Exit.NOT_FOUND),
    (errors.StoreError, Exit.STORAGE),
    (errors.CheckpointError, Exit.STORAGE),
    (errors.PreemptedError, Exit.PREEMPTED),
    (errors.RunnerError, Exit.FAILED),
)
#: what the states of jobs mean; the first that one of them is in
_OF_STATES = (
    (State.FAILED, Exit.FAILED),
    (State.QUEUED, Exit.UNFINISHED),
    (State.RUNNING, Exit.UNFINISHED),
    (State.HELD, Exit.UNFINISHED),
    (State.CANCELLED, Exit.CANCELLED),
)


def of_error(error: errors.RunnerError) -> Exit:
    """What a command that ends with this error returns."""
    return next(code for kind, code in _OF_ERRORS if isinstance(error, kind))


def exit_code(jobs: Iterable[Job]) -> Exit:
    """What became of these jobs, the worst first."""
    states = {job.state for job in jobs}
    return next((code for state, code in _OF_STATES if state in states), Exit.DONE)
