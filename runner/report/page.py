"""A report as one HTML page that needs nothing else: no script, no other file, no network.

Every picture says its numbers in words too, every table names its rows and columns. All text
from the bucket is text: the templates escape it, `clean` takes control characters out of it, and
the page forbids scripts besides. What is said of one run is in `chapter`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runner.queue.goodput import SHOWN, Seconds, added, machine_seconds
from runner.queue.texts import count, duration
from runner.report import pictures, words
from runner.report.chapter import Gallery, chapter, metrics_of
from runner.report.collect import FIRST as RESULTS
from runner.report.collect import Report, Run, clean
from runner.report.examples import Library

DRAWN = 40  #: runs in one picture; the table has all


@dataclass(frozen=True, kw_only=True)
class Page:
    """What `runner report` writes."""

    html: str
    pictures: Mapping[str, bytes]  #: file name, below a folder or not -> PNG


def render(report: Report) -> Page:
    """Draw everything and set the page.

    Example:
        >>> page = render(collect(queue, [], now=utc_now()))
        >>> Path("report.html").write_text(page.html)
    """
    gallery, library = Gallery(), Library()
    environment = Environment(
        loader=PackageLoader("runner.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(str(value)),
    )
    html = environment.get_template("page.html").render(
        report=report,
        comparisons=list(_comparisons(report.runs, gallery)),
        spending=_spending(report.runs, gallery),
        chapters=(chapter(run, gallery, library, report.made_at) for run in report.runs),
        words=words,
        count=count,
        duration=duration,
    )
    return Page(html=html, pictures=gallery.files)


def _spending(runs: Sequence[Run], gallery: Gallery) -> dict[str, Any] | None:
    """Return what the machine time of several runs went into; None where there is one, or none."""
    known = {run.job.id: run.view.time for run in runs if run.view.time}
    total: Seconds = reduce(added, known.values(), {})
    if len(known) < 2 or machine_seconds(total) < SHOWN:
        return None
    costs = [run.view.cost for run in runs if run.view.cost]
    paid = {name: sum(cost[name] for cost in costs) for name in ("paid", "lost")}
    bars = dict(list(known.items())[-DRAWN:])
    return {
        "words": words.spent(total, paid if costs else None),
        "bars": gallery.plots([pictures.spending("_time", "run", bars)]),
    }


def _of(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.measured.number(name) if run.measured else None


class Column(NamedTuple):
    """Of the table of runs."""

    head: str
    value: Callable[[Run], Any]
    text: Callable[[float | None], str]
    best: Callable[[Iterable[float]], float] | None  #: of its values


#: beside those of what was measured
COLUMNS = (
    Column("Parameters", lambda run: run.parameters, words.whole, None),
    Column("Epochs", lambda run: run.job.epoch, words.whole, None),
    Column("Images/s", _of("images_per_second"), words.whole, None),
    Column("Training attempts", lambda run: run.trainings, words.whole, None),
    Column("Preempted", lambda run: run.job.preempted, words.whole, None),
    Column("Died", lambda run: run.deaths, words.whole, None),
    Column("Goodput", lambda run: run.view.goodput, words.percent, None),
    Column("Cost", lambda run: (run.view.cost or {}).get("paid"), words.money, None),
)


def _columns(runs: Sequence[Run]) -> list[Column]:
    """Return the columns in which a run has something."""
    results = dict.fromkeys(name for run in runs if run.measured for name in run.measured.results)
    measured = [
        Column(
            words.HEADS.get(name) or words.title(name),
            _of(name),
            partial(words.shown, name),
            words.better(name),
        )
        for name in sorted(results, key=lambda name: [*RESULTS, name].index(name))
    ]
    return [c for c in (*measured, *COLUMNS) if any(c.value(run) is not None for run in runs)]


def _comparisons(runs: Sequence[Run], gallery: Gallery) -> Iterator[dict[str, Any]]:
    """Compare the runs that train the same on the same data, or would."""
    groups: dict[str, list[Run]] = {}
    for run in runs if len(runs) > 1 else ():
        groups.setdefault(run.subject, []).append(run)
    for number, (subject, members) in enumerate(groups.items(), 1):
        several = len(groups) > 1
        title = (
            f"Runs {subject}" if several and subject else "Other runs" if several else "All runs"
        )
        yield {
            "title": title,
            **_comparison(f"all-{number}" if several else "all", members, gallery),
        }


def _comparison(group: str, runs: Sequence[Run], gallery: Gallery) -> dict[str, Any]:
    measured = [run.measured for run in runs if run.measured]
    alike = len({one.labels.tobytes() for one in measured if one.labels is not None}) < 2
    link = Markup('<a href="#run-{0}">{0}</a><span class="{1}">{1}</span>').format
    names = [link(run.job.id, run.state) for run in runs]
    columns = _columns(runs)
    drawn = runs if len(runs) > 1 else ()
    return {
        "heads": ["Run", *(column.head for column in columns)],
        "rows": list(zip(names, *(_cells(column, runs, alike) for column in columns), strict=True)),
        "alike": alike,
        "best": words.best(runs) if alike else "",
        "drawn": DRAWN,
        "left_out": len(runs) > DRAWN,
        "bars": gallery.plots(_bars(group, drawn)),
        "overlays": gallery.plots(_overlays(group, drawn[-DRAWN:])),
    }


def _cells(column: Column, runs: Sequence[Run], alike: bool) -> list[str]:
    """Return a column of the table; where the runs can be compared, the best is bold."""
    values = [column.value(run) for run in runs]
    known = [value for value in values if value is not None]
    best = column.best(known) if alike and column.best and len(known) > 1 else math.nan
    bold = Markup("<strong>{}</strong>").format
    texts = zip(values, map(column.text, values), strict=True)
    return [bold(text) if value == best else text for value, text in texts]


def _bars(group: str, runs: Sequence[Run]) -> Iterator[pictures.Picture]:
    measured = [(run.job.id, run.measured) for run in runs if run.measured]
    if known := [pair for pair in measured if pair[1].number("top_1") is not None]:
        yield pictures.run_bars(group, dict(known[-DRAWN:]))


def _overlays(group: str, runs: Sequence[Run]) -> Iterator[pictures.Picture]:
    for metric in metrics_of(runs):
        lines = {run.job.id: run.history.get(f"val_{metric}", ()) for run in runs}
        if known := {name: values for name, values in lines.items() if values}:
            yield pictures.overlay(group, metric, known)
