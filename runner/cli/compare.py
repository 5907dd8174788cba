"""`runner compare JOB JOB…`: in what their specs differ, what they found, and their curves.

A job that goes on from another has one curve with that one's, with a mark between the two.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.cli.common import add_store_option, open_queue, say
from runner.cli.detail import MARK, VALUES, inherited, origin
from runner.cli.render import show, sparkline
from runner.errors import SpecError
from runner.exit import Exit
from runner.queue.job import Job
from runner.queue.record import SIZES
from runner.queue.texts import decimal, differences, finite
from runner.queue.view import Onlooker, View, describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The jobs meant."""
    parser.add_argument("job", metavar="JOB", nargs="+")
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Print a table with a column for each job, and below it their curves."""
    if len({*options.job}) < 2:
        name = options.job[0]
        raise SpecError(f"compare: received only {name}; give two jobs or more ('status {name}')")
    queue, store = open_queue(options)
    jobs = Onlooker(queue)
    order = {name: place for place, name in enumerate(options.job)}
    views = sorted(jobs.look(options.job), key=lambda view: order[view.job.id])
    for problem in jobs.problems:
        say(f"runner: {problem}")
    documents = [describe(store, view) for view in views]
    specs = [queue.spec(view.job.id, view.job.spec_digest) for view in views]
    show([("", *(view.job.id for view in views)), *_rows(views, documents, specs)])
    _print_curves([view.job for view in views], documents)
    return Exit.STORAGE if jobs.unreadable else Exit.DONE


def _print_curves(jobs: Sequence[Job], documents: Sequence[Mapping[str, Any]]) -> None:
    for metric in dict.fromkeys(name for document in documents for name in document["history"]):
        rows = [document["history"].get(metric) or [] for document in documents]
        print("\n" + "\n".join(_curves(metric, jobs, rows)))


def _curves(
    metric: str, jobs: Sequence[Job], rows: Sequence[Sequence[float | None]]
) -> Iterator[str]:
    """A metric of all jobs in lines: one scale, and each epoch in one column."""
    longest, width = max(map(len, rows)), max(len(job.id) for job in jobs)
    first = max(0, longest - VALUES)
    yield f"{metric}, epochs {first + 1} to {longest}" if first else metric
    scale = [value for row in rows for value in row[first:]]
    marks = {place for job in jobs if first < (place := inherited(job)) < longest}
    for job, row in zip(jobs, rows, strict=True):
        line = sparkline(row[first:], scale).ljust(longest - first)
        for place in sorted(marks, reverse=True):  # a column of its own, empty in other lines
            mark = MARK if inherited(job) == place else " "
            line = f"{line[: place - first]}{mark}{line[place - first :]}"
        last = next((value for value in reversed(row) if value is not None), None)
        if last is not None:
            yield f"  {job.id:<{width}}  {line}  {decimal(last)}"


def _rows(
    views: Sequence[View], documents: Sequence[Mapping[str, Any]], specs: Sequence[Any]
) -> list[tuple[str, ...]]:
    rows = [
        ("status", *(view.text for view in views)),
        ("goes on from", *(origin(view.job) for view in views)),
        ("epochs", *(str(view.job.epoch) for view in views)),
        ("digest", *map(_digest, documents)),
        *_fields(specs),
        *_results([document["evaluation"] or {} for document in documents]),
    ]
    return [row for row in rows if any(row[1:])]


def _fields(specs: Sequence[Any]) -> list[tuple[str, ...]]:
    """What the specs say differently; which job one goes on from is said by another row."""
    found = {name for spec in specs[1:] for name in differences(specs[0], spec)}
    shown = sorted(name for name in found if name != "name" and not name.startswith("from."))
    return [(name, *(_field(spec, name) for spec in specs)) for name in shown]


def _results(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    names = dict.fromkeys(name for one in found for name in one if name not in SIZES)
    return [(f"test {name}", *(_number(one.get(name)) for one in found)) for name in names]


def _digest(document: Mapping[str, Any]) -> str:
    newest = document["final"] or document["checkpoint"]
    return newest["digest"][:16] if newest else ""


def _field(spec: Any, name: str) -> str:
    for part in name.split("."):
        spec = spec.get(part) if isinstance(spec, Mapping) else None
    return "" if spec is None else f"{spec!s:.60}"


def _number(value: Any) -> str:
    return "" if finite(value) is None else decimal(value)
