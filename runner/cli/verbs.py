"""`runner cancel`, `hold`, `unhold`, `retry`, `priority`, `evaluate`: one record each.

They work from any machine. A running worker sees it within one heartbeat.
"""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from runner.cli.common import add_store_option, open_queue, say
from runner.errors import ConflictError, NotFoundError, StoreError, StoreRefusedError
from runner.exit import Exit
from runner.queue.job import HOLD, Job, State
from runner.queue.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable

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
    acts: dict[str, Callable[[str], Job]] = {
        "cancel": queue.cancel,
        "hold": queue.hold,
        "unhold": queue.unhold,
        "retry": queue.retry,
        "evaluate": partial(_evaluate, queue),
        "priority": lambda name: queue.prioritize(name, options.priority),
    }
    act = acts[options.command]
    result = Exit.DONE
    for name in options.job:
        try:
            say(f"{name}: {_words(options.command, act(name))}")
        except ConflictError as error:
            say(f"runner: {error}")
            result = Exit.USAGE
        except NotFoundError as error:
            say(f"runner: {error}")
            result = Exit.NOT_FOUND
        except StoreRefusedError:
            raise
        except StoreError as error:  # of this job's records, perhaps
            say(f"runner: {name}: {error}")
            result = Exit.STORAGE
    return result


def _words(command: str, job: Job) -> str:
    """Say what the job is now, and the command that goes on from there."""
    state = job.state.value
    if command == "hold" and job.wish == HOLD:
        state = f"{state}; its worker saves and holds it at its next heartbeat"
    elif command == "priority":
        return f"{state}, priority {job.priority}"
    elif command == "evaluate":
        state = "queued (evaluate)"
    elif command == "unhold" and job.state is State.RUNNING:
        return "running; it continues"
    after = {
        "hold": f"'runner unhold {job.id}' lets it be taken up again",
        "cancel": f"'runner retry {job.id}' queues it again, where it stood",
    }
    here = f"'runner resume {job.id}' works on it here"
    return f"{state}; {after.get(command, here)}"


def _evaluate(queue: Queue, name: str) -> Job:
    if queue.spec(name).get("evaluation") is None:
        msg = f"{name} can't be evaluated: its spec has no evaluation."
        raise ConflictError(msg)
    return queue.evaluate(name)
