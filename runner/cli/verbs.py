"""`runner cancel`, `hold`, `unhold`, `retry`, `priority`, `evaluate`: one record each.

They work from any machine. A running worker sees it within one heartbeat.
"""

import argparse
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from runner.cli.codes import of_error
from runner.cli.common import add_store_option, command, open_queue, say
from runner.cli.detail import resume, what_next
from runner.errors import (
    ConflictError,
    DamagedRecordError,
    NotFoundError,
    StoreError,
    StoreRefusedError,
)
from runner.exit import Exit
from runner.queue.job import HOLD, Job, State, line
from runner.queue.queue import Queue
from runner.queue.view import view_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MOST_PRIORITY = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The jobs meant."""
    parser.add_argument("job", metavar="JOB", nargs="+")
    if parser.prog.endswith(" priority"):
        parser.add_argument("priority", metavar="N", type=_priority, help="higher goes first")
    add_store_option(parser)


def _priority(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = _MOST_PRIORITY + 1
    if abs(value) > _MOST_PRIORITY:
        msg = f"received {text!r}; expected a number such as 5 or -5"
        raise argparse.ArgumentTypeError(msg)
    return value


def run(options: argparse.Namespace) -> int:
    """Change the jobs' states; the exit code of the last one that it could not change."""
    queue, _ = open_queue(options)
    acts: dict[str, tuple[Callable[[str], Job], Callable[[Job], str]]] = {
        "cancel": (queue.cancel, partial(_cancelled, queue)),
        "hold": (partial(_hold, queue), partial(_held, queue)),
        "unhold": (partial(_with_spec, queue, queue.unhold), partial(_unheld, queue)),
        "retry": (partial(_with_spec, queue, queue.retry), partial(_queued, queue)),
        "evaluate": (partial(_evaluate, queue), partial(_queued, queue)),
        "priority": (
            lambda name: queue.prioritize(name, options.priority),
            lambda job: f"{job.state}, priority {job.priority}",
        ),
    }
    if wrong := wrong_names(queue.job, options.job):
        return wrong
    act, words = acts[options.command]
    result = Exit.DONE
    for name in options.job:
        try:
            say(f"{name}: {words(act(name))}")
        except StoreRefusedError:
            raise
        except StoreError as error:  # of this job's records, perhaps
            read = "cannot be read: " if isinstance(error, DamagedRecordError) else ""
            say(f"runner: {name}: {read}{line(str(error))}")
            result = of_error(error)
        except (ConflictError, NotFoundError) as error:
            say(f"runner: {error}")
            result = of_error(error)
    return result


def wrong_names(require: "Callable[[str], object]", names: "Sequence[str]") -> Exit:
    """Name the jobs that are not there: a wrong name among others leaves all untouched."""
    result = Exit.DONE
    for name in names:
        try:
            with suppress(StoreError):  # it is there, and the verb says what is wrong with it
                require(name)
        except NotFoundError as error:
            say(f"runner: {error} Nothing was changed.")
            result = of_error(error)
    return result


def _with_spec(queue: Queue, act: "Callable[[str], Job]", name: str) -> Job:
    """Queue a job again, if anybody could work on it."""
    queue.spec(name, queue.job(name).spec_digest)
    return act(name)


def _hold(queue: Queue, name: str) -> Job:
    """Hold a job; one that is held, or asked to be, stays so."""
    job = queue.job(name)
    if job.state is State.HELD or job.wish == HOLD:
        return job
    return queue.hold(name) if job.state is State.RUNNING else _with_spec(queue, queue.hold, name)


def _cancelled(queue: Queue, job: Job) -> str:
    if job.state is State.SUCCEEDED:
        return f"{job.state}; {job.reason}"
    try:
        queue.spec(job.id, job.spec_digest)
    except StoreError:
        return f"{job.state} for good: its spec cannot be read"
    return f"{job.state}; {command('retry', job.id)} queues it again, where it stood"


def _held(queue: Queue, job: Job) -> str:
    (view,) = view_all(queue, [job])
    if job.state is State.RUNNING:
        return f"{view.state}, to be held; {what_next(queue, view)}"
    return f"{view.state}; {command('unhold', job.id)} lets it be taken up again"


def _unheld(queue: Queue, job: Job) -> str:
    (view,) = view_all(queue, [job])
    if job.state is not State.RUNNING:
        return _queued(queue, job)
    return f"{view.state}; {what_next(queue, view) or 'it continues'}"


def _queued(queue: Queue, job: Job) -> str:
    evaluates = " (evaluate)" if job.kind == "evaluate" else ""
    return f"{job.state}{evaluates}; {resume(queue, job)} works on it here"


def _evaluate(queue: Queue, name: str) -> Job:
    if queue.spec(name, queue.job(name).spec_digest).get("evaluation") is None:
        raise ConflictError(f"{name} can't be evaluated: its spec has no evaluation.")
    return queue.evaluate(name)
