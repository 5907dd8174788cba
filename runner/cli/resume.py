"""`runner resume`: take over what is queued, preempted or lost."""

import argparse

from runner.cli.codes import exit_code
from runner.cli.common import add_code_option, add_store_option, command, open_queue, say
from runner.cli.working import add_session_option, catch_signals, session_of, work
from runner.queue.job import State


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resume`."""
    parser.add_argument("job", metavar="JOB", nargs="*", help="only these (default: all)")
    add_session_option(parser)
    add_store_option(parser)
    add_code_option(parser)


def run(options: argparse.Namespace) -> int:
    """Work until nothing is left."""
    stop = catch_signals()
    session = session_of(options)
    queue, _ = open_queue(options)
    if not options.job:
        return work(queue, None, stop, session=session)
    jobs = [queue.job(name) for name in options.job]
    if not any(job.state in (State.QUEUED, State.RUNNING) for job in jobs):
        for job in jobs:
            unhold = f"; {command('unhold', job.id)} lets it be taken up again"
            later = unhold if job.state is State.HELD else ""
            say(f"{job.id}: {job.state.value}, nothing to resume{later}")
        return exit_code(jobs)
    return work(queue, [job.id for job in jobs], stop, session=session)
