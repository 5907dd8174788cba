"""`runner validate`: the whole effective spec, or all that is wrong with it."""

import argparse
import json

from runner.cli.common import say
from runner.cli.exit import Exit
from runner.cli.specs import add_spec_arguments, load_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `validate`."""
    add_spec_arguments(parser)
    parser.add_argument(
        "--build",
        action="store_true",
        help="also read the data, build the network and print its size",
    )


def run(options: argparse.Namespace) -> int:
    """Print each spec with every default."""
    from runner.training.check import check_data

    for path, one in load_all(options):
        check_data(one, source=str(path))
        print(json.dumps(one.effective(), indent=2), flush=True)
        if options.build:
            from runner.training.check import build_report

            say(build_report(one, source=str(path)))
    return Exit.DONE
