"""The curves of a page as plain data: for its script, for a picture, and for a plain drawing.

A page that is rewritten while a training runs is drawn without matplotlib: its script draws the
numbers, and whoever has no script sees `sketch`.
"""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from runner.queue.texts import finite
from runner.report import words
from runner.report.collect import Run, clean

COLOURS = 8  #: of lines; more of them are told apart by their dashes
DASHES = 4
MARKS = 200  #: interruptions in a picture, the newest
MOST = 2_000  #: values of a line that a script is given; of more, evenly many
LARGEST = 1e30  #: beyond this an axis has no sensible ticks
WIDTH, HEIGHT = 360, 190  #: of a sketch, in pixels of the page where it is small
TOP, BOTTOM = 26, 166  #: of the lines in it

Values = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a curve."""

    label: str
    values: Values = field(repr=False)  #: one an epoch
    colour: int = 0
    dash: int = 0  #: 0: none


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric against the epoch."""

    name: str  #: of its file, without the ending
    group: str  #: lines of one name are hidden together in all curves of a group
    metric: str
    title: str
    said: str  #: to those who can't see it
    lines: Sequence[Line]
    of_runs: bool = False  #: a line is a run
    marks: Sequence[float] = ()  #: epochs at which it was interrupted
    inherited: int = 0  #: epochs of the job that it goes on from

    @property
    def last(self) -> float:
        """The epoch in which the axis ends."""
        return max([1.0, *(float(len(line.values)) for line in self.lines), *self.marks])

    @property
    def is_share(self) -> bool:
        """Whether its values are shown in percent."""
        return self.metric.startswith("top_")

    def document(self) -> dict[str, Any]:
        """Return what the page's script draws, as JSON; all texts are without control characters.

        `epochs` and the `values` of each line are equally long.
        """
        epochs = max((len(line.values) for line in self.lines), default=0)
        step = -(-epochs // MOST) or 1
        places = range(epochs)[::-step][::-1]  # the newest value is always one of them
        return {
            "group": clean(self.group),
            "title": clean(self.title),
            "percent": self.is_share,
            "last": self.last,
            "marks": list(self.marks),
            "inherited": self.inherited,
            "epochs": [place + 1 for place in places],
            "lines": [
                {
                    "label": clean(line.label, limit=80),
                    "colour": line.colour,
                    "dash": line.dash,
                    "values": [_brief(line.values, place) for place in places],
                }
                for line in self.lines
            ],
        }


def of_run(run: Run, metric: str) -> Curve:
    """Return one metric of a run, in training and validation."""
    training, validation = run.history.get(metric, ()), run.history.get(f"val_{metric}", ())
    marks = run.interruptions[-MARKS:]
    said = words.curve(metric, training, validation, marks)
    if run.job.parent and run.inherited:
        said += f" Up to epoch {run.inherited} it is that of {run.job.parent['job']}."
    both = (
        Line(label="training", values=training, colour=1, dash=1),
        Line(label="validation", values=validation),
    )
    return Curve(
        name=f"{run.job.id}-{_part_of_name(metric)}",
        group=run.job.id,
        metric=metric,
        title=words.title(metric),
        said=said,
        lines=[line for line in both if line.values],
        marks=[mark.saved_epoch for mark in marks],
        inherited=run.inherited,
    )


def of_runs(group: str, metric: str, runs: Iterable[Run]) -> Curve | None:
    """Return the validation metric of several runs; None where none has it."""
    found = {run.job.id: run.history.get(f"val_{metric}", ()) for run in runs}
    known: Mapping[str, Values] = {name: values for name, values in found.items() if values}
    if not known:
        return None
    title = words.column(f"val_{metric}")
    each = (f"{name}: {words.curve(metric, (), values, ())}" for name, values in known.items())
    return Curve(
        name=f"{group}-{_part_of_name(metric)}",
        group=group,
        metric=metric,
        title=title,
        said=f"{title} of the runs. {' '.join(each)}",
        lines=[
            Line(
                label=name,
                values=values,
                colour=number % COLOURS,
                dash=number // COLOURS % DASHES,
            )
            for number, (name, values) in enumerate(known.items())
        ],
        of_runs=True,
    )


def sketch(curve: Curve) -> Markup:
    """Return an SVG of the lines, with the least and the largest value and the last epoch."""
    known = [
        value for line in curve.lines for value in map(_clipped, line.values) if value is not None
    ]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    across = (WIDTH - 20) / curve.last
    up = (BOTTOM - TOP) / ((high - low) or 1.0)

    def path(values: Values) -> str:
        parts, drawing = [], False
        for epoch, value in enumerate(map(_clipped, values), 1):
            if value is not None:
                command = "L" if drawing else "M"
                parts.append(
                    f"{command}{10 + epoch * across:.1f} {BOTTOM - (value - low) * up:.1f}h0"
                )
            drawing = value is not None
        return "".join(parts)

    line = Markup(
        '<path d="{}" fill="none" stroke-width="1.6" style="stroke: var(--series-{});'
        ' stroke-linecap: round"{}/>'
    ).format
    text = Markup('<text x="{}" y="{}" font-size="11" fill="currentColor"{}>{}</text>').format
    dashed = Markup(' stroke-dasharray="{}"').format
    dashes = ("", dashed("5 3"), dashed("1.5 3"), dashed("6 3 1.5 3"))
    end = Markup(' text-anchor="end"')
    mark = Markup(
        '<path d="M{0:.1f} {1}V{2}" stroke-dasharray="2 2" style="stroke: var(--muted)"/>'
    )
    return Markup("").join(
        [
            Markup('<svg viewBox="0 0 {} {}">').format(WIDTH, HEIGHT),
            *(mark.format(10 + epoch * across, TOP, BOTTOM) for epoch in curve.marks),
            *(line(path(one.values), one.colour, dashes[one.dash]) for one in curve.lines),
            text(10, 14, Markup(' font-weight="600"'), clean(curve.title, limit=30)),
            text(
                WIDTH - 10, 14, end, f"highest {words.shown(curve.metric, high if known else None)}"
            ),
            text(10, HEIGHT - 8, "", f"lowest {words.shown(curve.metric, low if known else None)}"),
            text(WIDTH - 10, HEIGHT - 8, end, f"epoch {curve.last:.4g}"),
            Markup("</svg>"),
        ]
    )


def _brief(values: Values, place: int) -> float | None:
    value = _clipped(values[place]) if place < len(values) else None
    return None if value is None else float(f"{value:.6g}")


def _clipped(value: float | None) -> float | None:
    known = finite(value)
    return None if known is None else min(max(float(known), -LARGEST), LARGEST)


def _part_of_name(metric: str) -> str:
    """Return a metric's part of a file's name; no two have the same, and none that of another."""
    if re.fullmatch(r"(?!(confusion|classes|calibration|attempts|time)$)\w{1,40}", metric, re.A):
        return metric
    return f"{re.sub('[^a-zA-Z0-9_]', '-', metric)[:40]}-{zlib.crc32(metric.encode()):08x}"
