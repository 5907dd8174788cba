"""`runner work`: a worker for the whole queue, for machines that come and go."""

import argparse
from typing import TYPE_CHECKING

from runner.cli.common import add_store_option, open_queue, say
from runner.cli.exit import Exit
from runner.errors import SpecError

if TYPE_CHECKING:
    from runner.engine.session import Session

EVERYONE = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `work`."""
    parser.add_argument(
        "--until-empty", action="store_true", help="end when there is nothing left to do here"
    )
    parser.add_argument(
        "--max-duration",
        metavar="TIME",
        help="stop with everything saved before so long has passed, such as 11h, and begin nothing"
        " that could not make progress until then (default: what Colab and Kaggle allow, there)",
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        action="append",
        default=[],
        help="of this machine, for jobs that require it (again for more; also $RUNNER_LABELS)",
    )
    parser.add_argument(
        "--drain",
        metavar="WORKER",
        nargs="?",
        const=EVERYONE,
        help="work on nothing; ask the worker host:pid, or all that work now, to finish their"
        " step, save, and take no more",
    )
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Work, or ask others to stop working."""
    if options.drain is not None:
        return _drain(options)
    from runner.cli.working import catch_signals, work

    stop = catch_signals()
    session = _session(options.max_duration)
    queue, store = open_queue(options)
    if session is not None:
        say(f"{session.why}: {session.left_seconds / 60:.0f} minutes to work in")
    return work(
        queue,
        store,
        None,
        stop,
        until_empty=options.until_empty,
        session=session,
        labels=options.label,
    )


def _drain(options: argparse.Namespace) -> Exit:
    from runner.queue.drain import request

    _, store = open_queue(options)
    everyone = options.drain == EVERYONE
    if not everyone and ":" not in options.drain:
        msg = f"--drain received {options.drain!r}; expected a worker as status shows it: host:pid"
        raise SpecError(msg)
    request(store, "" if everyone else options.drain)
    who = "all workers" if everyone else options.drain
    say(f"asked {who} to drain: within a heartbeat they save, let go and take no more")
    return Exit.DONE


def _session(duration: str | None) -> "Session | None":
    from runner.engine.session import Session, known_limit

    if duration is None:
        known = known_limit()
        return None if known is None else Session.lasting(*known)
    from runner.spec import seconds

    try:
        return Session.lasting(seconds(duration), f"--max-duration {duration}")
    except ValueError as error:
        msg = f"--max-duration {error}"
        raise SpecError(msg) from None
