"""The pictures of a report: each drawn once, as a PNG for anywhere and as SVG for the page.

The SVG has no colours of its own: they are CSS variables, so that one drawing is legible on
white, in the dark and in print. Its letters are text, in the page's typeface. Colours are those
of Okabe and Ito, which people with any colour vision tell apart; marks and words say the same.
Matplotlib's global state is left as it was: no pyplot, settings only while something is drawn.
"""

import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator, PercentFormatter

from runner.queue.goodput import CAUSES, SHOWN, Seconds
from runner.queue.texts import count
from runner.report import words
from runner.report.attempts import Ending
from runner.report.collect import Counts, Floats, Measured, Run
from runner.report.curves import LARGEST, Curve, Values

INK, MUTED, GRID = "#1f2329", "#6a717b", "#d9dde3"
#: of a matrix: seen on white and in the dark
CELLS = LinearSegmentedColormap.from_list("cells", ["#1f7fc400", "#1f7fc4"])
WHITE = "#ffffff"  #: on strong colours, in the dark too
SERIES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a7a18", "#7a5bb5",
)  # fmt: skip
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
FINE = (0, (4, 2))  #: dashes of a line to compare with
#: colour in a drawing -> variable of the page
VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES)},
}  # fmt: skip
ENDINGS = {
    Ending.FINISHED: SERIES[2], Ending.RUNNING: SERIES[0], Ending.PREEMPTED: SERIES[5],
    Ending.HELD: SERIES[4], Ending.LOST: SERIES[1], Ending.FAILED: SERIES[3],
    Ending.CANCELLED: MUTED,
}  # fmt: skip

#: of machine time, which waiting in the queue, the last cause, is not
CAUSE_COLOURS = dict(zip(CAUSES, [*(SERIES[n] for n in (2, 1, 4, 0, 3, 5, 7, 6)), GRID]))  # noqa: B905

DOTS = 120  #: of a PNG, per inch
SMALL, SQUARE, WIDE = 3.6, 4.1, 4.7  #: inches: legible on a telephone
NAMED_CLASSES = 30  #: up to so many classes have their names beside them
COUNTED_CLASSES = 12  #: and up to so many their counts in the cells
TIMELINE_ROWS = 30
STYLE = Path(__file__).parent / "templates" / "pictures.mplstyle"


@dataclass(frozen=True)
class Picture:
    """A drawing in both forms."""

    name: str  #: of its file, without the ending
    png: bytes = field(repr=False)
    svg: str = field(repr=False)
    said: str  #: to those who can't see it


def draw(
    name: str,
    said: str,
    size: tuple[float, float],
    paint: Callable[[Axes], None],
    *,
    left: float = 0.55,
    right: float = 0.2,
    bottom: float = 0.45,
    top: float = 0.36,
) -> Picture:
    """Let `paint` fill the axes of a new figure, `size` inches large, with margins in inches.

    The margins are given, since measuring all text would double the drawing's time.
    """
    width, height = size
    png, svg = io.BytesIO(), io.StringIO()
    quick: Any = {"compress_level": 1}  # the usual 6 takes a fifth of a report's time
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": name}, STYLE):
        # letters that the PNG's typeface lacks; the page has them in its own
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=size)
        inner = (width - left - right) / width, (height - bottom - top) / height
        paint(figure.add_axes((left / width, bottom / height, *inner)))
        figure.savefig(png, format="png", dpi=DOTS, facecolor="white", pil_kwargs=quick)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Picture(name, png.getvalue(), to_inline(svg.getvalue(), name), said)


def to_inline(svg: str, name: str) -> str:
    """Return an SVG that may stand in a page beside others, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    used = {a or b for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)}

    def own(found: "re.Match[str]") -> str:
        return f' id="{name}-{found[1]}"' if found[1] in used else ""

    svg = re.sub(r' id="([^"]*)"', own, svg)
    svg = re.sub(r'(url\(#|href="#)', lambda found: f"{found[0]}{name}-", svg)
    svg = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg, count=1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def shortened(text: str, limit: int = 24) -> str:
    """Return a name that fits beside a picture, its end kept: names differ there.

    >>> shortened("myinception-dropout-small-ma", 16)
    'myincep…small-ma'
    """
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def _room(labels: Iterable[str], size: float = 8) -> float:
    """Return the inches that the longest of some labels takes beside an axis."""
    font, widest = FontProperties(family="DejaVu Sans", size=size), 0.0
    for label in labels:
        # a letter of the far east is as wide as high, and this typeface may not have it
        known = "".join("M" if unicodedata.east_asian_width(c) in "WF" else c for c in label)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            width = text_to_path.get_text_width_height_descent(known, font, ismath=False)[0]
        widest = max(widest, width / 72)
    return widest * 1.1 + 0.1


def _floats(values: Values) -> Floats:
    known = np.array([np.nan if value is None else value for value in values], np.float64)
    return np.clip(known, -LARGEST, LARGEST)


def _line(axes: Axes, values: Values, *, color: str, **style: Any) -> None:
    """Draw a line, and a dot for each value that has no neighbour to be joined with."""
    y = _floats(values)
    x = np.arange(1, len(y) + 1)
    axes.plot(x, y, color=color, **style)
    known = np.concatenate([[False], np.isfinite(y), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    if alone.any():
        axes.plot(x[alone], y[alone], color=color, marker="o", markersize=4, linestyle="")


def _epochs(axes: Axes, of: Curve) -> None:
    axes.set_xlabel("epoch", horizontalalignment="right", x=1.0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(0, of.last * 1.03)
    axes.grid(axis="y")
    if of.is_share:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g}%")


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of horizontal bars, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _bars(axes: Axes, places: Any, shares: Floats, digits: int, **style: Any) -> None:
    """Draw horizontal bars with their shares written behind them."""
    axes.barh(places, np.nan_to_num(shares), **style)
    for place, share in zip(places, shares, strict=True):
        text = f"{share:.{digits}%}" if np.isfinite(share) else "not measured"
        axes.text(float(np.nan_to_num(share)) + 0.015, place, text, va="center", fontsize=7.5)
    axes.set(xlim=(0, 1.2), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def curve(of: Curve) -> Picture:
    """One metric against the epoch: of a run, with a mark at each interruption, or of several."""

    def paint(axes: Axes) -> None:
        for line in of.lines:
            label = shortened(line.label, 22) if of.of_runs else line.label
            colour, dash = SERIES[line.colour], DASHES[line.dash]
            _line(axes, line.values, label=label, color=colour, linestyle=dash)
        _epochs(axes, of)
        for place in of.marks:
            axes.axvline(place, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        if of.marks:
            axes.plot(of.marks, [1.0] * len(of.marks), marker="v", markersize=5, color=MUTED,
                      clip_on=False, linestyle="", label="interrupted",
                      transform=axes.get_xaxis_transform())  # fmt: skip
        if of.inherited:
            axes.axvline(of.inherited, color=MUTED, linewidth=1.4, zorder=1, label="goes on")
        if not any(np.isfinite(_floats(line.values)).any() for line in of.lines):
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center")
        axes.set_title(of.title)
        if of.of_runs:
            axes.legend(loc="upper left", bbox_to_anchor=(-0.17, -0.42 / 1.65), ncols=2)
        else:
            edge = (-0.02, 0.01 - below / 1.65)
            axes.legend(loc="lower left", bbox_to_anchor=edge, ncols=3, handlelength=1.5)

    entries = len(of.lines) + bool(of.marks) + bool(of.inherited)
    below = 0.5 + 0.17 * (-(-len(of.lines) // 2) if of.of_runs else entries > 3)
    return draw(of.name, of.said, (SMALL, 2.0 + below), paint, bottom=below)


def confusion(name: str, title: str, counts: Counts, names: Sequence[str]) -> Picture:
    """True class by predicted class; a cell is as strong as its share of the true class."""
    classes = len(counts)
    ticks = [names[n] if n < len(names) else str(n) for n in range(classes)]
    texts = [shortened(text, 12) for text in ticks] if classes <= NAMED_CLASSES else []
    letters = 8 if classes <= 15 else 6

    def paint(axes: Axes) -> None:
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        strength = np.where(shares > 0, 0.08 + 0.92 * shares**0.6, 0)
        axes.imshow(strength, CELLS, interpolation="none", vmin=0, vmax=1)
        axes.set(title=title, xlabel="predicted class", ylabel="true class")
        axes.spines[["top", "right"]].set_visible(True)
        for axis in (axes.xaxis, axes.yaxis):
            if texts:
                axis.set_ticks(range(classes), texts)
                axis.set_tick_params(length=0, labelsize=letters)
            else:
                axis.set_major_locator(MaxNLocator(6, integer=True))
        if any(len(text) > 2 for text in texts):
            axes.tick_params(axis="x", rotation=90)
        for (row, column), some in np.ndenumerate(counts if classes <= COUNTED_CLASSES else []):
            if some:
                axes.text(column, row, str(some), ha="center", va="center", fontsize=7,
                          color=WHITE if shares[row, column] > 0.7 else INK)  # fmt: skip

    room = 0.3 + _room(texts or ["100"], letters)
    right = f"{np.trace(counts):,} of {counts.sum():,} predictions lie on the diagonal"
    said = f"{title} matrix of {count(classes, 'class', 'classes')}: {right}."
    return draw(name, said, (SQUARE, SQUARE + 0.16), paint, left=room, bottom=room)


def class_bars(name: str, shares: Floats, names: Sequence[str]) -> Picture:
    """Accuracy of each class, the best first; many classes go without their names."""
    known = [index for index in np.argsort(-shares, kind="stable") if np.isfinite(shares[index])]
    values = shares[known]
    texts = [shortened(words.class_name(names, index), 16) for index in known]
    said = f"Accuracy by class: mean {words.percent(values.mean() if len(values) else None)}."

    def many(axes: Axes) -> None:
        mean = float(values.mean())
        axes.bar(range(1, len(values) + 1), values, width=0.8, color=SERIES[0])
        axes.axhline(mean, color=INK, linewidth=0.9, linestyle=FINE)
        axes.text(len(values) + 0.5, mean, f" mean {mean:.0%}", ha="right", va="bottom", fontsize=8)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set(xlabel="classes, the best first", ylim=(0, 1.02), xlim=(0, len(values) + 1))
        axes.grid(axis="y")
        axes.set_title("Accuracy by class")

    def few(axes: Axes) -> None:
        _rows(axes, texts)
        _bars(axes, range(len(values)), values, 0, height=0.66, color=SERIES[0])
        axes.set_title("Accuracy by class")

    if len(values) > NAMED_CLASSES:
        return draw(name, said, (SQUARE, 2.8), many)
    height = 0.75 + 0.22 * max(len(values), 1)
    return draw(name, said, (SQUARE, height), few, left=_room(texts))


def reliability(name: str, measured: Measured) -> Picture:
    """How often the network is right against how sure it is; the bars' ink is how often."""
    names = ("low", "high", "count", "confidence", "accuracy")
    low, high, images, sure, right = (
        np.array([one[name] for one in measured.reliability], np.float64) for name in names
    )

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=FINE)
        ink = np.minimum(1, 0.35 + 0.65 * (images / images.sum()) ** 0.5)
        colours = [(SERIES[0], share) for share in ink]
        axes.bar((low + high) / 2, right, (high - low) * 0.9, color=colours)
        axes.plot(sure, right, color=SERIES[1], marker="o", markersize=3.5, linewidth=1.1)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="how sure the network is",
                 ylabel="how often it is right")  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_title("Calibration", pad=24)
        # above the bars, which may be anywhere
        axes.text(0, 1.03, "dashed: as sure as right; above it less sure, below it too sure",
                  fontsize=7, color=MUTED)  # fmt: skip
        axes.grid(axis="both")

    said = f"Reliability diagram. {words.calibration(measured)}"
    return draw(name, said, (SQUARE, SQUARE + 0.15), paint, left=0.65, right=0.25, top=0.56)


def timeline(run: Run, now: datetime) -> Picture:
    """One bar an attempt, from its claim to its end; the last ones, where there are many."""
    shown = run.attempts[-TIMELINE_ROWS:]
    start = min(one.began_at for one in shown)  # hosts' clocks may differ
    total = max(((one.ended_at or now) - start).total_seconds() for one in shown)
    unit, seconds = _unit(total)
    span = max(total / seconds, 1e-9)

    def paint(axes: Axes) -> None:
        _rows(axes, [str(one.number) for one in shown])
        for row, one in enumerate(shown):
            left = (one.began_at - start).total_seconds() / seconds
            width = max(one.seconds(now) / seconds, span * 0.004)
            axes.barh(row, width, left=left, height=0.6, color=ENDINGS[one.ending])
            axes.text(left + width + span * 0.015, row, f"{one.stage.value}, {one.ending.value}",
                      fontsize=8, va="center")  # fmt: skip
        # room for the words behind the last bar
        axes.set(xlim=(0, span * 1.45), xlabel=f"{unit} since the first of these began",
                 ylabel="attempt", title="Attempts")  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(6))

    said = f"Timeline of {count(len(run.attempts), 'attempt')}, which the table of them describes."
    size = WIDE, 0.85 + 0.24 * max(len(shown), 2)
    return draw(f"{run.job.id}-attempts", said, size, paint)


def _unit(total: float) -> tuple[str, float]:
    """Return the unit in which so many seconds are drawn, and the seconds of one."""
    units = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0))
    return next((one for one in units if total >= 2 * one[1]), ("seconds", 1.0))


def spending(name: str, of: str, bars: Mapping[str, Seconds]) -> Picture:
    """A stacked bar for each attempt or run, by its name: what its machine time went into."""
    labels, rows = [shortened(label, 18) for label in bars], max(len(bars), 2)
    causes = [c for c in CAUSE_COLOURS if any(bar.get(c, 0) >= SHOWN for bar in bars.values())]
    widths = np.array([[bar.get(cause, 0.0) for cause in causes] for bar in bars.values()])
    unit, seconds = _unit(widths.sum(axis=1).max())
    below = 0.62 + 0.17 * -(-len(causes) // 3)

    def paint(axes: Axes) -> None:
        _rows(axes, labels)
        left = widths.cumsum(axis=1) - widths
        for place, cause in enumerate(causes):
            axes.barh(range(len(labels)), widths[:, place] / seconds, left=left[:, place] / seconds,
                      height=0.6, label=CAUSES[cause], color=CAUSE_COLOURS[cause])  # fmt: skip
        axes.set(xlabel=f"{unit} of machine time", ylabel=of, title="Where the time went")
        if causes:
            axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.5 / (0.24 * rows)), ncols=3)

    each = "; ".join(f"{of} {label}: {words.spending(bar)}" for label, bar in bars.items())
    room, size = max(0.55, 0.2 + _room(labels)), (WIDE, 0.36 + 0.24 * rows + below)
    return draw(name, f"Where the time went. {each}.", size, paint, left=room, bottom=below)


def run_bars(group: str, runs: Mapping[str, Measured]) -> Picture:
    """The accuracy of each run and, where images were changed at random, its certainty."""
    names = {"top_1": "top-1 accuracy", "certainty": "certainty"}
    if not any(run.passes for run in runs.values()):
        del names["certainty"]
    labels = [shortened(label, 18) for label in runs]
    thick = 0.8 / len(names)

    def paint(axes: Axes) -> None:
        _rows(axes, labels)
        for place, (name, label) in enumerate(names.items()):
            where = np.arange(len(runs)) + (place - (len(names) - 1) / 2) * thick
            values = _floats([run.number(name) for run in runs.values()])
            _bars(axes, where, values, 1, height=thick * 0.86, label=label, color=SERIES[place])
        axes.set_title("On the test data")
        axes.legend(loc="upper right", bbox_to_anchor=(1.0, -0.4 / (0.5 * len(runs))), ncols=3)

    each = "; ".join(
        f"{run}: {', '.join(f'{names[n]} {words.percent(one.number(n))}' for n in names)}"
        for run, one in runs.items()
    )
    said = f"{' and '.join(names.values()).capitalize()} of the runs. {each}."
    size = WIDE, 1.05 + 0.5 * len(runs)
    return draw(
        f"{group}-accuracy-and-certainty", said, size, paint, left=_room(labels), bottom=0.65
    )
