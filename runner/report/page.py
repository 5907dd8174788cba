"""A report as one HTML page that needs nothing else: no other file, no network.

Every picture says its numbers in words too, every table names its rows and columns. All text
from the bucket is text: the templates escape it, `clean` takes control characters out of it, and
the page forbids all scripts but its own, whose hash it names: that one draws curves which can be
hovered, from numbers in a block of JSON. Without scripts there are pictures. What is said of one
run is in `chapter`.
"""

import base64
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from runner.queue.goodput import SHOWN, Seconds, added, machine_seconds
from runner.queue.texts import count, duration
from runner.report import curves, words
from runner.report.chapter import Gallery, Sketches, chapter, metrics_of
from runner.report.collect import FIRST as RESULTS
from runner.report.collect import Report, Run, clean
from runner.report.examples import Library

if TYPE_CHECKING:  # matplotlib, which a page that is made often does without
    from runner.report.pictures import Picture

DRAWN = 40  #: runs in one picture; the table has all
RELOAD_SECONDS = 60  #: between two looks of a browser at a page that is rewritten
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Page:
    """What `runner report` writes."""

    html: str
    pictures: Mapping[str, bytes]  #: file name, below a folder or not -> PNG


def render(report: Report, *, live: bool = False, drawn: bool = True, closed: str = "") -> Page:
    """Draw everything and set the page.

    Args:
        report: what it is about.
        live: it is rewritten where it lies: the browser loads it again while a job has not ended.
        drawn: with all pictures. Without them it takes a fraction of the time and no matplotlib:
            there are curves only.
        closed: why no test images are looked for, if so.

    Example:
        >>> page = render(collect(queue, [], now=utc_now()))
        >>> Path("report.html").write_text(page.html)
    """
    gallery, library = Gallery() if drawn else Sketches(), Library(closed)
    script, going = _script(), not all(run.job.ended for run in report.runs)
    html = _template().render(
        report=report,
        comparisons=list(_comparisons(report.runs, gallery)),
        spending=_spending(report.runs, gallery),
        chapters=(chapter(run, gallery, library, report.made_at) for run in report.runs),
        curves=gallery.curves,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup((HERE / "uplot" / "uPlot.min.css").read_text()),  # noqa: S704 - our own file
        live=live,
        drawn=drawn,
        reload=RELOAD_SECONDS if live and (going or not report.runs) else None,
        words=words,
        count=count,
        duration=duration,
    )
    return Page(html=html, pictures=gallery.files)


@functools.cache
def _template() -> Template:
    """Return the page's template, compiled once: a page may be made every minute."""
    environment = Environment(
        loader=PackageLoader("runner.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(str(value)),
    )
    return environment.get_template("page.html")


@functools.cache
def _script() -> Markup:
    """Return the page's script: the library that draws, with its licence, and what calls it."""
    licence, library, own = (
        (HERE / name).read_text(encoding="utf-8")
        for name in ("uplot/LICENSE", "uplot/uPlot.iife.min.js", "templates/page.js")
    )
    return Markup(f"/*\n{licence}\n*/\n{library}\n{own}")  # noqa: S704 - our own files


def _spending(runs: Sequence[Run], gallery: Gallery) -> dict[str, Any] | None:
    """Return what the machine time of several runs went into; None where there is one, or none."""
    known = {run.job.id: run.view.time for run in runs if run.view.time}
    total: Seconds = reduce(added, known.values(), {})
    if len(known) < 2 or machine_seconds(total) < SHOWN:
        return None
    costs = [run.view.cost for run in runs if run.view.cost]
    paid = {name: sum(cost[name] for cost in costs) for name in ("paid", "lost")}
    return {
        "words": words.spent(total, paid if costs else None),
        "bars": gallery.plots(_time(dict(list(known.items())[-DRAWN:]))),
    }


def _time(bars: Mapping[str, Seconds]) -> "Iterator[Picture]":
    from runner.report import pictures

    yield pictures.spending("_time", "run", bars)


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
        "overlays": gallery.lines(_overlays(group, drawn[-DRAWN:])),
    }


def _cells(column: Column, runs: Sequence[Run], alike: bool) -> list[str]:
    """Return a column of the table; where the runs can be compared, the best is bold."""
    values = [column.value(run) for run in runs]
    known = [value for value in values if value is not None]
    best = column.best(known) if alike and column.best and len(known) > 1 else math.nan
    bold = Markup("<strong>{}</strong>").format
    texts = zip(values, map(column.text, values), strict=True)
    return [bold(text) if value == best else text for value, text in texts]


def _bars(group: str, runs: Sequence[Run]) -> "Iterator[Picture]":
    measured = [(run.job.id, run.measured) for run in runs if run.measured]
    if known := [pair for pair in measured if pair[1].number("top_1") is not None]:
        from runner.report import pictures

        yield pictures.run_bars(group, dict(known[-DRAWN:]))


def _overlays(group: str, runs: Sequence[Run]) -> Iterator[curves.Curve]:
    found = (curves.of_runs(group, metric, runs) for metric in metrics_of(runs))
    return filter(None, found)
