"""`runner validate`: the whole effective spec, or all that is wrong with it."""

import argparse
import json

from runner.cli.common import say
from runner.cli.specs import add_spec_arguments, load_all
from runner.exit import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `validate`."""
    add_spec_arguments(parser)
    parser.add_argument(
        "--build",
        action="store_true",
        help="also build the network; say its size, the images of each class, the memory needed;"
        " of a program, try one step and its evaluation",
    )


def run(options: argparse.Namespace) -> int:
    """Print each spec with every default: one as it is, several as a list."""
    from runner.mirrors.copies import lacking
    from runner.training.check import check_data
    from runner.training.quiet import import_keras

    found = load_all(options, data=True)
    check_data(found)
    specs = [one.effective(later=True) for _, one in found]
    for why in lacking({tracker for _, one in found for tracker in one.trackers}):
        say(f"trackers: {why}. A job is trained without them all the same")
    print(json.dumps(specs if len(specs) > 1 else specs[0], indent=2), flush=True)
    if options.build:
        import_keras()
        from runner.evaluation.trial import build_report

        files = [path for path, _ in found]
        for path, one in found:
            source = f"{path}, {one.name}" if files.count(path) > 1 else str(path)
            say(build_report(one, source=source))
    return Exit.DONE
