"""`runner cancel`, `hold`, `release` and `retry`: one record each, obeyed by a running worker."""

import argparse

from runner.cli.common import add_store_option, open_queue, say
from runner.cli.exit import Exit
from runner.errors import ConflictError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The jobs meant."""
    parser.add_argument("job", metavar="JOB", nargs="+")
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Change the jobs' states; 2 if one is in no state for it."""
    queue, _ = open_queue(options)
    act = {
        "cancel": queue.cancel,
        "hold": queue.hold,
        "release": queue.unhold,
        "retry": queue.retry,
    }[options.command]
    result = Exit.DONE
    for name in options.job:
        try:
            say(f"{name}: {act(name).state.value}")
        except ConflictError as error:
            say(f"runner: {error}")
            result = Exit.USAGE
    return result
