"""Working on jobs from the command line, with the signals handled and the progress drawn."""

import signal
from collections.abc import Sequence

from runner.cli.common import exit_code, say
from runner.cli.exit import Exit
from runner.cli.render import make_reporter
from runner.engine.notices.kubernetes import grace_seconds
from runner.engine.preemption import StopRequest
from runner.queue.queue import Queue
from runner.store.base import Store


def catch_signals() -> StopRequest:
    """Be ready for a signal before anything slow is imported or stored."""
    stop = StopRequest(say, grace_seconds=grace_seconds())
    stop.install()
    return stop


def work(queue: Queue, store: Store, ids: Sequence[str] | None, stop: StopRequest) -> Exit:
    """Work on jobs (None: all) until nothing is left; the exit code of it."""
    from runner.engine.notices.watcher import watching
    from runner.engine.worker import Worker

    touched: list[str] = []
    with make_reporter(touched) as reporter, watching(stop, reporter.note):
        worker = Worker(queue, store, stop=stop, reporter=reporter)
        owned = worker.work(ids)
    for other in owned:
        say(f"{other.job.id}: {other.availability.why}")
    if stop.reason is not None:
        return Exit.INTERRUPTED if stop.signal == signal.SIGINT else Exit.PREEMPTED
    if worker.unreadable:
        return Exit.STORAGE
    if ids is None and not touched:
        say("nothing to resume" if not owned else "nothing else to resume")
    return exit_code(queue.job(name) for name in ids or [*touched, *(o.job.id for o in owned)])
