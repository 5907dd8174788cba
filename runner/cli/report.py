"""`runner report`: one HTML page on any number of jobs, at any moment of their lives.

Its path alone goes to standard output. What can't be read is named in the page and on standard
error, and hides nothing else. Imports neither TensorFlow nor Keras.
"""

import argparse
from pathlib import Path

from runner.cli.common import add_store_option, not_there, open_queue, say, write_file
from runner.errors import SpecError
from runner.exit import Exit
from runner.queue.queue import utc_now

PAGE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    add = parser.add_argument
    add("job", metavar="JOB", nargs="*", help="only these (default: all)")
    where = parser.add_mutually_exclusive_group()
    folder = "folder for the page and its pictures, made if need be (default: report)"
    where.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=Path("report"), help=folder
    )
    into = "into the store instead: report/index.html, or jobs/JOB/report/index.html for each JOB"
    where.add_argument("--publish", action="store_true", help=into)
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Write the page; exit code 6 if something in the store can't be read."""
    if options.publish:
        return _publish(options)
    from runner.report.collect import collect
    from runner.report.page import render

    folder: Path = options.output
    queue, _ = open_queue(options)
    report = collect(queue, options.job, now=utc_now())
    _make(folder)
    if not report.runs and not report.problems:
        say("no jobs")
    page = render(report)
    for name, png in page.pictures.items():
        _make((folder / name).parent)
        write_file(folder / name, png)
    write_file(folder / PAGE, page.html.encode(errors="replace"))
    for problem in report.problems:
        say(problem)
    print(folder / PAGE)
    return Exit.STORAGE if report.problems else Exit.DONE


def _publish(options: argparse.Namespace) -> int:
    """Write a page for each job that is named into the store, or one for all; their addresses."""
    from runner.report.collect import Collector
    from runner.report.page import render
    from runner.report.publishing import publish

    queue, store = open_queue(options)
    if missing := not_there(store):
        say(missing)
        return Exit.DONE
    collector, problems = Collector(queue), list[str]()
    for name in dict.fromkeys(options.job) or (None,):
        report = collector.look([name] if name else [], now=utc_now())
        problems += report.problems
        key = publish(store, name if report.runs else None, render(report, live=True))
        print(f"{store.url}/{key}")
    for problem in problems:
        say(problem)
    return Exit.STORAGE if problems else Exit.DONE


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"--output received {str(folder)!r}, which cannot be a folder: {error.strerror}"
        raise SpecError(msg) from None
