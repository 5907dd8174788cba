"""`runner extend JOB --epochs N`: the same training, further, as a new job JOB-2.

Short for `submit` of the same spec with another name, more epochs and `from` the job.
"""

import argparse
import re
from itertools import count
from pathlib import Path

from runner.cli.common import add_code_option, open_queue
from runner.cli.specs import add_set_option
from runner.cli.submit import add_storing_options, is_same, submit
from runner.cli.working import catch_signals, session_of
from runner.errors import SpecError
from runner.queue.queue import Queue
from runner.spec import JobSpec, parse
from runner.specfile import changed
from runner.training.quiet import check_backend


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `extend`."""
    add = parser.add_argument
    add("job", metavar="JOB", help="a job whose training has ended")
    add("--epochs", metavar="N", type=int, required=True, help="in all, those of JOB included")
    add_set_option(parser)
    add_storing_options(parser)
    add_code_option(parser)


def run(options: argparse.Namespace) -> int:
    """Submit the new job, if there is none like it yet; its id alone on standard output."""
    stop = catch_signals()
    session = session_of(options)
    if not options.detach:
        check_backend()
    queue, _ = open_queue(options, quiet=True)
    spec = extended(queue, options.job, options.epochs, options.changes)
    return submit(options, [(Path(options.job), spec)], stop, session)


def _stem(name: str) -> str:
    return re.sub(r"-\d+$", "", name)


def extended(queue: Queue, name: str, epochs: int, changes: list[str]) -> JobSpec:
    """Return the spec under the first name that is free, or that has this very job already."""
    job = queue.job(name)
    raw = queue.spec(name, job.spec_digest)
    if raw.get("training", {}).get("phases"):
        msg = f"--epochs: {name} has training.phases, and these count: submit a spec with all of"
        raise SpecError(f"{msg} them and more, and with --from {name}.")
    stem, begins = _stem(name), (job.parent or {}).get("job", "")
    stem = stem if stem == _stem(begins) else name
    for number in count(2):
        new = f"{stem}-{number}"
        texts = [f"name={new}", f"training.epochs={epochs}", f'from={{"job": "{name}"}}', *changes]
        spec = parse(changed(raw, texts), source=f"extend {name}")
        if spec.training.epochs != epochs:
            msg = f"--epochs received {epochs}, but --set makes it {spec.training.epochs}"
            raise SpecError(f"{msg}: give one of the two")
        there = queue.find(spec.name)
        if spec.name != new or there is None or is_same(queue.spec(new, there.spec_digest), spec):
            return spec
    raise AssertionError
