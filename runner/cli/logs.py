"""`runner logs JOB`: what the attempts said, from the bucket, also while another machine trains."""

import argparse
import sys
import time
from dataclasses import dataclass, field

from runner.cli.common import add_store_option, open_queue, say
from runner.engine.attempt import LEFT_OUT, log_key
from runner.exit import Exit
from runner.queue.job import State
from runner.store.base import Store

FOLLOW_SECONDS = 2.0
_OVERLAP = 400  # bytes by which the printed part of a log is found again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `logs`."""
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("-f", "--follow", action="store_true", help="follow until the job ends")
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Print all attempts' logs in order."""
    queue, store = open_queue(options)
    job = queue.job(options.job)
    stream = Stream(store)
    for key in store.list(f"jobs/{job.id}/logs/"):
        stream.print_new(key)
    seen = job.token
    while options.follow and job.state in (State.QUEUED, State.RUNNING):
        time.sleep(FOLLOW_SECONDS)
        job = queue.job(job.id)
        # the attempt before may have had a last word after its successor's first
        for token in range(max(1, seen - 1), job.token + 1):
            stream.print_new(log_key(job.id, token))
        seen = job.token
    if options.follow:
        time.sleep(FOLLOW_SECONDS)  # its last words follow its last record
        stream.print_new(log_key(job.id, job.token))
    if not stream.printed:
        say(f"{job.id} has no log yet ({job.state.value})")
    return Exit.DONE


@dataclass
class _Printed:
    size: int = 0
    end: bytes = b""


@dataclass
class Stream:
    """Prints what is new in logs that are replaced whole, and whose middle may go missing."""

    store: Store
    printed: dict[str, _Printed] = field(default_factory=dict)

    def print_new(self, key: str) -> None:
        """Print what a log says that it had not said before."""
        before = self.printed.get(key, _Printed())
        size = self.store.size(key)
        if size is None or size == before.size:
            return
        data = self.store.read(key) or b""
        text = new_part(data, before).decode(errors="replace")
        sys.stdout.write("".join(c for c in text if c.isprintable() or c in "\n\t"))
        sys.stdout.flush()
        self.printed[key] = _Printed(len(data), data[-_OVERLAP:])


def new_part(data: bytes, before: _Printed) -> bytes:
    """Return what follows the part that was printed."""
    if data[: before.size].endswith(before.end) and len(data) >= before.size:
        return data[before.size :]
    place = data.rfind(before.end)
    if place >= 0:
        return data[place + len(before.end) :]
    gap = data.rfind(LEFT_OUT)  # so much was said meanwhile that its beginning is gone
    return data[max(gap, 0) :]
