"""`runner remove JOB…`: a job that is not running goes, with all its objects.

Jobs that went on from it keep all they need: what they began with is their own.
"""

import argparse
import sys
from collections.abc import Sequence

from runner.cli.codes import of_error
from runner.cli.common import add_store_option, open_queue, say
from runner.cli.verbs import wrong_names
from runner.errors import RunnerError, SpecError, StoreRefusedError
from runner.exit import Exit
from runner.queue.job import line
from runner.queue.queue import Queue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The jobs meant."""
    parser.add_argument("job", metavar="JOB", nargs="+")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Remove the jobs; the exit code of the last one that stays."""
    queue, _ = open_queue(options)
    names = list(dict.fromkeys(options.job))
    if wrong := wrong_names(queue.require_something, names):
        return wrong
    _say_who_needs_them(queue, names)
    if not options.yes and not _agreed(names):
        say("nothing was removed")
        return Exit.UNFINISHED
    result = Exit.DONE
    for name in names:
        try:
            queue.remove(name)
            say(f"{name}: removed")
        except StoreRefusedError:
            raise
        except RunnerError as error:
            say(f"runner: {line(str(error))}")
            result = of_error(error)
    return result


def _say_who_needs_them(queue: Queue, names: Sequence[str]) -> None:
    """Name the children of these jobs, and those that would wait in vain."""
    for other in queue.jobs(lambda *_: None):
        if other.id in names:
            continue
        if other.parent and other.parent["job"] in names:
            say(f"{other.id} went on from {other.parent['job']}, and keeps all it needs")
        for name in other.after if not other.ended else ():
            if name in names:
                say(f"{other.id} waits for {name}, and would wait in vain")


def _agreed(names: Sequence[str]) -> bool:
    """Ask, where somebody can answer."""
    what = names[0] if len(names) == 1 else f"these {len(names)} jobs"
    if not sys.stdin.isatty():
        raise SpecError(f"remove deletes {what} for good, and nobody can be asked here: give --yes")
    sys.stderr.write(f"Remove {what}, with all checkpoints and results, for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
