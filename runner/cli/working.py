"""Working on jobs from the command line, with the signals handled and the progress drawn."""

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runner import quiet
from runner.cli.codes import exit_code
from runner.cli.common import command, not_there, say
from runner.cli.live import PlainReporter, make_reporter
from runner.engine.notices.kubernetes import grace_seconds
from runner.engine.preemption import StopRequest
from runner.errors import SpecError
from runner.exit import Exit
from runner.queue.job import Job, Stage, State
from runner.queue.queue import Queue
from runner.queue.texts import duration

if TYPE_CHECKING:
    from runner.engine.notifier import Notifier
    from runner.engine.session import Session
    from runner.engine.worker import Owned, Worker

CLOSING_SECONDS = 30.0  #: that a worker's end waits for messages
STOPPED_SECONDS = 5.0  #: the same, where it was asked to stop, or the bucket failed


def catch_signals() -> StopRequest:
    """Be ready for a signal before anything slow is imported or stored."""
    stop = StopRequest(say, grace_seconds=grace_seconds())
    stop.install()
    return stop


def add_session_option(parser: argparse.ArgumentParser) -> None:
    """`--max-duration TIME`, as every command that works has it."""
    parser.add_argument(
        "--max-duration",
        metavar="TIME",
        help="stop with everything saved before so long has passed, such as 11h, and begin nothing"
        " that could not make progress until then (default: what Colab and Kaggle allow, there)",
    )


def session_of(options: argparse.Namespace) -> "Session | None":
    """How long this process may work: as its user says, or the machine's host. Raises SpecError."""
    from runner.engine.session import Session, known_limit

    asked = options.max_duration
    if asked is None:
        known = known_limit()
        return None if known is None else Session.lasting(*known)
    return Session.lasting(seconds_of(asked), f"--max-duration {asked}")


def seconds_of(text: str, name: str = "--max-duration") -> float:
    """Return the seconds of an option or a variable, such as `30m`. Raises SpecError."""
    from runner.specparts import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise SpecError(f"{name} {error}") from None


def work(
    queue: Queue,
    ids: Sequence[str] | None,
    stop: StopRequest,
    *,
    until_empty: bool = True,
    session: "Session | None" = None,
    labels: Sequence[str] = (),
) -> Exit:
    """Work on jobs (None: all) until nothing is left; the exit code of it."""
    from runner.engine.notices.watcher import watching
    from runner.engine.requirements import Looking
    from runner.engine.worker import Worker

    missing = not_there(queue.store)
    if missing and ids is None and until_empty:
        say(missing)
        return Exit.DONE
    if session is not None:
        say(f"{session.why}: {duration(max(0.0, session.left_seconds))} to work in")
    looking = Looking(labels)
    with (
        quiet.aside(),
        make_reporter() as reporter,
        watching(stop, reporter.note, session=session),
        _notifying(queue, reporter, stop) as notifier,
    ):
        stop.say = reporter.note  # which knows what else is on the terminal
        stop.again = command("resume")
        worker = Worker(
            queue, queue.store, stop=stop, reporter=reporter, looking=looking, session=session
        )
        owned = worker.work(ids, until_empty=until_empty)
        if notifier is not None:
            for job in queue.look(worker.held, {}):
                notifier.saw(job)
    if stop.signal == signal.SIGINT:
        if reporter.touched:
            say(f"stopped; {command('resume')} {what_resume_does(reporter.last)}")
        return Exit.INTERRUPTED
    if worker.drained and ids is None:
        say("drained: it takes no more")
        return Exit.DONE
    if worker.session_over or worker.pressed:
        return _after_session(queue, ids, session, reporter.touched)
    if stop.reason is not None:
        return Exit.PREEMPTED
    return _finished(queue, ids, worker, owned, reporter.touched)


@contextmanager
def _notifying(
    queue: Queue, reporter: PlainReporter, stop: StopRequest
) -> "Iterator[Notifier | None]":
    """Send messages where RUNNER_NOTIFY names services; else nothing is imported for it."""
    if not os.environ.get("RUNNER_NOTIFY", "").strip():
        yield None
        return
    from runner.engine.notifier import LOST_SECONDS, LOST_VARIABLE, Notifier

    lost = os.environ.get(LOST_VARIABLE)
    seconds = seconds_of(lost, LOST_VARIABLE) if lost else LOST_SECONDS
    notifier = Notifier(queue, os.environ["RUNNER_NOTIFY"], reporter.note, lost_seconds=seconds)
    reporter.on_end = notifier.saw
    notifier.start()
    seconds = STOPPED_SECONDS
    try:
        yield notifier
        if stop.reason is None:
            seconds = CLOSING_SECONDS
    finally:
        left = stop.seconds_left
        notifier.close(seconds if left is None else min(seconds, left))


def what_resume_does(job: Job | None) -> str:
    """What `resume` does after this job was left; None: its end could not be seen."""
    if job is None or job.ended:
        return "works on what is left"
    if job.stage is Stage.EVALUATE:
        return "evaluates it again"
    return (
        "goes on from the last checkpoint"
        if job.checkpoints
        else "begins it again: nothing of it was saved yet"
    )


def _finished(
    queue: Queue,
    ids: Sequence[str] | None,
    worker: "Worker",
    owned: "Sequence[Owned]",
    touched: Sequence[str],
) -> Exit:
    """What became of the jobs of a worker that nobody stopped."""
    for other in owned:
        if other.job.state is State.RUNNING:
            say(f"{other.job.id}: {other.availability.why}")
    if worker.unreadable:
        return Exit.STORAGE
    if not (ids or touched):
        say("nothing to work on" if not owned else "nothing else to work on")
    others = [other.job.id for other in owned]
    return exit_code(_now(queue, ids or [*touched, *worker.held, *others]))


def _now(queue: Queue, names: Sequence[str]) -> list[Job]:
    """Return jobs as they are now. Raises NotFoundError for one that was removed meanwhile."""
    found = queue.look({*names}, {})
    return [*found, *map(queue.job, {*names} - {job.id for job in found})]


def _after_session(
    queue: Queue, ids: Sequence[str] | None, session: "Session | None", touched: Sequence[str]
) -> Exit:
    """75 where something is left that another session could resume; else of what it worked on."""
    jobs = queue.jobs() if ids is None else _now(queue, ids)
    left = [job.id for job in jobs if job.state in (State.QUEUED, State.RUNNING)]
    if not left:
        return exit_code(_now(queue, ids or touched))
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    why = session.why if session is not None else "the session"
    say(f"{why}: not finished: {', '.join(left[:5])}{more}; run me again")
    return Exit.PREEMPTED
