"""`runner status`: what every job is doing, derived from what is in the bucket.

Imports neither TensorFlow nor anything else that is slow: people call it often.
"""

import argparse
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

from runner.cli.common import add_store_option, not_there, open_queue, say
from runner.cli.render import show
from runner.errors import SpecError
from runner.exit import Exit
from runner.queue.job import State
from runner.queue.texts import ago, duration
from runner.queue.view import AT_ONCE, Onlooker, View, describe

#: of the table: what it shows of a job
COLUMNS: Mapping[str, Callable[[View], str]] = {
    "ID": lambda view: view.job.id,
    "STATUS": lambda view: view.text,
    "PROGRESS": lambda view: f"epoch {view.epoch} step {view.ahead.step}",
    "METRIC": lambda view: "".join(view.metrics[:1]),
    "": lambda view: "".join(view.metrics[1:]),
    "TRY": lambda view: str(view.job.tries),
    "WORKER": lambda view: "" if view.state == "lost" else view.worker or "",
    "SEEN": lambda view: ago(view.seen_seconds),
    "UNSAVED": lambda view: duration(view.unsaved_seconds),
    "ETA": lambda view: duration(view.eta_seconds),
}
UNREADABLE = "unreadable"  #: the state of a job whose records can't be read
COLOURS = {
    "succeeded": "green", "running": "cyan", "failed": "red", "lost": "yellow",
    "cancelled": "dim", "held": "yellow", "stalled": "yellow",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `status`."""
    add = parser.add_argument
    states = [*(state.value for state in State), "lost", "stalled", UNREADABLE]
    add("job", metavar="JOB", nargs="*", help="only these (default: all)")
    add("--json", action="store_true", help="for programs: one JSON document")
    add("-w", "--watch", action="store_true", help="show again and again, until Ctrl-C")
    chosen = "only jobs in this state (again for more)"
    add("--state", action="append", choices=states, help=chosen)
    add("--worker", metavar="TEXT", help="only jobs whose worker's name has this")
    add("--match", metavar="GLOB", help="only jobs named so, such as 'wide-*'")
    workers = "the workers instead, and what each left to others"
    add("--workers", action="store_true", help=workers)
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Print a table, or JSON; exit code 6 if records of a job can't be read."""
    _check(options)
    queue, _ = open_queue(options, quiet=options.json)
    if options.workers:
        from runner.cli.workers import list_workers

        return list_workers(queue, as_json=options.json)
    jobs = Onlooker(queue)
    if options.watch:
        from runner.cli.live import watch

        def seen() -> tuple[list[tuple[str, ...]], list[str], list[str]]:
            views = sorted(look(jobs, options), key=lambda view: view.job.ended)
            return (*table(views, jobs.unreadable), jobs.problems)

        watch(seen)
    write = _print_json if options.json else _print
    write(jobs, look(jobs, options), options)
    for problem in jobs.problems:
        say(problem)
    return Exit.STORAGE if jobs.problems else Exit.DONE


def _filters(options: argparse.Namespace) -> list[str]:
    """Return the options that choose among all jobs."""
    return [f"--{name}" for name in ("state", "worker", "match") if getattr(options, name)]


def _check(options: argparse.Namespace) -> None:
    filters = _filters(options)
    if options.job and filters:
        raise SpecError(f"{filters[0]} chooses among all jobs, JOB names one: give one of the two")
    if pattern := next((name for name in options.job if set(name) & set("*?[")), ""):
        raise SpecError(f"{pattern!r} is no job's name; a pattern is given as --match '{pattern}'")
    if options.json and options.watch:
        raise SpecError("--watch draws for people, --json is for programs: give one of the two")


def look(jobs: Onlooker, options: argparse.Namespace) -> list[View]:
    """Return the jobs that are asked for, as they are now, the oldest first."""
    return [
        view
        for view in jobs.look(options.job)
        if (not options.state or view.state in options.state)
        and (not options.match or fnmatchcase(view.job.id, options.match))
        and (not options.worker or options.worker in f"{view.worker or ''} {view.node or ''}")
    ]


def _print_json(jobs: Onlooker, views: Sequence[View], options: argparse.Namespace) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda view: describe(jobs.queue.store, view), views))
    found += [
        {"id": name, "state": UNREADABLE, "reason": why} for name, why in jobs.unreadable.items()
    ]
    alone = len(options.job) == len(found) == 1
    print(json.dumps(found[0] if alone else found, indent=2))


def _print(jobs: Onlooker, views: Sequence[View], options: argparse.Namespace) -> None:
    if views or jobs.unreadable:
        show(*table(views, jobs.unreadable))
    else:
        none = "no jobs like that" if _filters(options) else "no jobs"
        say(not_there(jobs.queue.store) or none)
    if options.job:
        from runner.cli.detail import detail

        for view in views:
            print(detail(jobs.queue, view))


def table(
    views: Sequence[View], unreadable: Collection[str] = ()
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the rows, their header first, and the styles of those after it."""
    rows = [tuple(cell(view) for cell in COLUMNS.values()) for view in views]
    ruined = [(name, UNREADABLE, *[""] * (len(COLUMNS) - 2)) for name in unreadable]
    styles = [COLOURS.get(view.state, "") for view in views] + ["red"] * len(ruined)
    return [tuple(COLUMNS), *rows, *ruined], styles
