"""`runner logs JOB`: what the attempts said, from the bucket."""

import argparse
import sys
import time

from runner.cli.common import add_store_option, open_queue, say
from runner.cli.exit import Exit
from runner.queue.job import State
from runner.store.base import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `logs`."""
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Print all attempts' logs in order."""
    queue, store = open_queue(options)
    job = queue.job(options.job)
    printed: dict[str, int] = {}
    _print_new(store, job.id, printed)
    while options.follow and queue.job(job.id).state in (State.QUEUED, State.RUNNING):
        time.sleep(2)
        _print_new(store, job.id, printed)
    if not printed:
        say(f"{job.id} has no log yet ({job.state.value})")
    return Exit.DONE


def _print_new(store: Store, job_id: str, printed: dict[str, int]) -> None:
    for key in store.list(f"jobs/{job_id}/logs/"):
        data = store.read(key) or b""
        done = printed.get(key, 0)
        if len(data) < done:  # the middle of a long log was left out meanwhile
            done = 0
        text = data[done:].decode(errors="replace")
        sys.stdout.write("".join(c for c in text if c.isprintable() or c in "\n\t"))
        printed[key] = len(data)
    sys.stdout.flush()
