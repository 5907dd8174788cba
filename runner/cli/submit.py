"""`runner submit`: check specs, store the jobs, work on them here."""

import argparse
import json

from runner.cli.common import add_store_option, open_queue, say
from runner.cli.exit import Exit
from runner.cli.specs import add_spec_arguments, load_all
from runner.cli.working import catch_signals, work
from runner.errors import ConflictError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `submit`."""
    add_spec_arguments(parser)
    parser.add_argument(
        "--detach", action="store_true", help="only store the jobs; a worker takes them up"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check and print the specs, store nothing"
    )
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Submit; each id alone on a line of standard output."""
    stop = catch_signals()
    specs = load_all(options)
    if options.dry_run:
        for _, spec in specs:
            print(json.dumps(spec.effective(), indent=2))
        return Exit.DONE
    from runner.training.check import check_data

    for path, spec in specs:
        check_data(spec, source=str(path))
    queue, store = open_queue(options)
    ids = []
    for _, spec in specs:
        known = queue.find(spec.name)
        try:
            job = queue.submit(spec.name, spec.effective())
        except ConflictError as error:
            say(f"runner: {error}")
            return Exit.USAGE
        if known is not None:
            say(f"{job.id}: already there, {job.state.value}")
        print(job.id, flush=True)
        ids.append(job.id)
    if options.detach:
        return Exit.DONE
    return work(queue, store, ids, stop)
