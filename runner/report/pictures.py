"""The pictures of a report: each drawn once, as a PNG for anywhere and as SVG for the page.

The SVG has no colours of its own: they are CSS variables, so that one drawing is legible on
white, in the dark and in print. Its letters are text, in the page's typeface. Colours are those
of Okabe and Ito, which people with any colour vision tell apart; marks and words say the same.
Matplotlib's global state is left as it was: no pyplot, settings only while something is drawn.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from runner.report.attempts import Attempt, Ending, Interruption

INK, MUTED, GRID = "#1f2329", "#6a717b", "#d9dde3"
CELL = "#1f7fc4"  #: of a matrix: seen on white and in the dark
WHITE = "#ffffff"  #: on strong colours, in the dark too
SERIES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a7a18", "#7a5bb5",
)  # fmt: skip
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
TRAINING, VALIDATION = SERIES[1], SERIES[0]
#: colour in a drawing -> variable of the page
VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES)},
}  # fmt: skip
ENDINGS = {
    Ending.FINISHED: SERIES[2], Ending.RUNNING: SERIES[0], Ending.PREEMPTED: SERIES[5],
    Ending.LOST: SERIES[1], Ending.FAILED: SERIES[3], Ending.CANCELLED: MUTED,
}  # fmt: skip

DOTS = 120  #: of a PNG, per inch
NAMED_CLASSES = 30  #: up to so many classes have their names beside them
COUNTED_CLASSES = 12  #: and up to so many their counts in the cells
TIMELINE_ROWS = 30
LARGEST = 1e30  #: beyond this an axis has no sensible ticks
STYLE: dict[str, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8.5,
    "text.color": INK, "text.parse_math": False,
    "axes.edgecolor": MUTED, "axes.labelcolor": MUTED, "axes.labelsize": 8.5,
    "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 8, "axes.linewidth": 0.7, "axes.facecolor": "none", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": False, "grid.color": GRID, "grid.linewidth": 0.6,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "xtick.major.size": 3, "ytick.major.size": 3,
    "legend.frameon": False, "legend.fontsize": 8, "legend.handlelength": 1.8,
    "lines.linewidth": 1.6, "lines.solid_capstyle": "round",
    "figure.facecolor": "none", "svg.fonttype": "none",
}  # fmt: skip

Values = Sequence[float | None]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing in both forms."""

    name: str  #: of its file, without the ending
    png: bytes = field(repr=False)
    svg: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Around the axes, in inches: fixed, since measuring text would double the drawing's time."""

    left: float = 0.55
    right: float = 0.15
    bottom: float = 0.45
    top: float = 0.35


def draw(
    name: str,
    size: tuple[float, float],
    paint: Callable[[Axes], None],
    margins: Margins | None = None,
) -> Picture:
    """Let `paint` fill the axes of a new figure, `size` inches large."""
    m, (width, height) = margins or Margins(), size
    with _settings(name):
        figure = Figure(figsize=size)
        inner = (width - m.left - m.right) / width, (height - m.bottom - m.top) / height
        paint(figure.add_axes((m.left / width, m.bottom / height, *inner)))
        return Picture(name=name, png=_png(figure), svg=_svg(figure, name))


@contextmanager
def _settings(name: str) -> Iterator[None]:
    settings: Any = {**STYLE, "svg.hashsalt": name}
    with warnings.catch_warnings(), mpl.rc_context(settings):
        # letters that the PNG's typeface lacks; the page has them in its own
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    quick: Any = {"compress_level": 1}  # the usual 6 takes a fifth of a report's time
    canvas.print_figure(content, format="png", dpi=DOTS, facecolor="white", pil_kwargs=quick)
    return content.getvalue()


def _svg(figure: Figure, name: str) -> str:
    content = io.StringIO()
    FigureCanvasSVG(figure).print_figure(content, format="svg", metadata={"Date": None})
    return to_inline(content.getvalue(), name)


def to_inline(svg: str, name: str) -> str:
    """Return an SVG that may stand in a page beside others, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    used = {a or b for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)}
    svg = re.sub(r' id="([^"]*)"', lambda found: _own(found, used, name), svg)
    svg = re.sub(r'(url\(#|href="#)', lambda found: f"{found[0]}{name}-", svg)
    svg = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg, count=1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def _own(found: "re.Match[str]", used: set[str], name: str) -> str:
    return f' id="{name}-{found[1]}"' if found[1] in used else ""


def shortened(text: str, limit: int = 24) -> str:
    """Return a name that fits beside a picture, its end kept: names differ there.

    >>> shortened("myinception-dropout-small-ma", 16)
    'myincep…small-ma'
    """
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


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


def _epochs(axes: Axes, last: float, *, share: bool) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(0, max(last, 1) * 1.03)
    axes.grid(axis="y")
    if share:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g}%")


def curve(
    name: str,
    title: str,
    training: Values,
    validation: Values,
    marks: Sequence[Interruption] = (),
    *,
    share: bool,
) -> Picture:
    """One metric against the epoch, a line over all attempts, a mark at each interruption."""

    def paint(axes: Axes) -> None:
        for values, label, colour in (
            (training, "training", TRAINING),
            (validation, "validation", VALIDATION),
        ):
            if values:
                dashes = DASHES[1] if label == "training" else "-"
                _line(axes, values, label=label, color=colour, linestyle=dashes)
        last = max([len(training), len(validation), *(mark.epoch for mark in marks)])
        _epochs(axes, last, share=share)
        _marks(axes, marks)
        if not np.isfinite(_floats([*training, *validation])).any():
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center")
        axes.set_title(title)
        axes.xaxis.set_label_text("epoch", horizontalalignment="right", x=1.0)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, -0.3), ncols=3, borderpad=0,
                    fontsize=7.5, handlelength=1.5, handletextpad=0.4,
                    columnspacing=0.9)  # fmt: skip

    return draw(name, (3.6, 2.5), paint, Margins(bottom=0.5))


def _marks(axes: Axes, marks: Sequence[Interruption]) -> None:
    for number, mark in enumerate(marks):
        axes.axvline(mark.epoch, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        axes.plot([mark.epoch], [1.0], marker="v", markersize=5, color=MUTED, clip_on=False,
                  linestyle="", transform=axes.get_xaxis_transform(),
                  label=None if number else "interrupted")  # fmt: skip


def overlay(name: str, title: str, lines: Mapping[str, Values], *, share: bool) -> Picture:
    """The same metric of several runs, laid over each other."""
    rows = -(-len(lines) // 2)
    below = 0.5 + 0.17 * rows

    def paint(axes: Axes) -> None:
        for number, (label, values) in enumerate(lines.items()):
            style = DASHES[number // len(SERIES) % len(DASHES)]
            colour = SERIES[number % len(SERIES)]
            _line(axes, values, label=shortened(label, 22), color=colour, linestyle=style)
        _epochs(axes, max(map(len, lines.values())), share=share)
        axes.set_title(title)
        axes.legend(loc="upper left", bbox_to_anchor=(-0.17, -0.42 / 1.65), ncols=2,
                    columnspacing=0.8, handletextpad=0.5, borderpad=0, fontsize=7.5)  # fmt: skip

    return draw(name, (3.6, 2.0 + below), paint, Margins(bottom=below))


def confusion(name: str, title: str, counts: Counts, names: Sequence[str]) -> Picture:
    """True class by predicted class; a cell is as strong as its share of the true class."""
    classes = len(counts)
    named = classes <= NAMED_CLASSES

    def paint(axes: Axes) -> None:
        totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        shares = counts / totals
        red, green, blue = mpl.colors.to_rgb(CELL)
        cells = np.empty((*counts.shape, 4))
        cells[..., :3] = red, green, blue
        cells[..., 3] = np.where(shares > 0, 0.08 + 0.92 * shares**0.6, 0)
        axes.imshow(cells, interpolation="none", aspect="equal")
        axes.set_title(title)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.spines[["top", "right"]].set_visible(True)
        _class_ticks(axes, names if named else None, classes)
        if classes <= COUNTED_CLASSES:
            _counts(axes, counts, shares)

    side = 4.1
    longest = max(len(shortened(text, 12)) for text in names) if named and names else 3
    room = 0.42 + 0.075 * longest
    return draw(
        name, (side, side), paint, Margins(left=room, bottom=room, top=0.35, right=room - 0.23)
    )


def _class_ticks(axes: Axes, names: Sequence[str] | None, classes: int) -> None:
    if names is None:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        return
    texts = [shortened(text, 12) for text in names]
    upright = all(len(text) <= 2 for text in texts)
    axes.set_xticks(range(classes), texts, rotation=0 if upright else 90)
    axes.set_yticks(range(classes), texts)
    axes.tick_params(length=0, labelsize=8 if classes <= 15 else 6)


def _counts(axes: Axes, counts: Counts, shares: Floats) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            strong = shares[row, column] > 0.7
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7,
                      color=WHITE if strong else INK)  # fmt: skip


def class_bars(name: str, title: str, shares: Floats, names: Sequence[str]) -> Picture:
    """Accuracy of each class, the best first; many classes go without their names."""
    known = [index for index in np.argsort(-shares, kind="stable") if np.isfinite(shares[index])]
    values = shares[known]
    mean = float(values.mean()) if len(values) else 0.0

    def many(axes: Axes) -> None:
        axes.bar(range(1, len(values) + 1), values, width=0.8, color=SERIES[0])
        axes.axhline(mean, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.text(len(values) + 0.5, mean, f" mean {mean:.0%}", ha="right", va="bottom", fontsize=8)
        axes.set_xlabel("classes, the best first")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, len(values) + 1)
        axes.grid(axis="y")
        axes.set_title(title)

    def few(axes: Axes) -> None:
        axes.barh(range(len(values)), values, height=0.66, color=SERIES[0])
        for row, value in enumerate(values):
            axes.text(value + 0.012, row, f"{value:.0%}", va="center", fontsize=8)
        axes.set_yticks(range(len(values)), [shortened(names[i], 16) for i in known])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.grid(axis="x")
        axes.set_title(title)

    if len(values) > NAMED_CLASSES:
        return draw(name, (8.4, 2.6), many)
    longest = max([len(shortened(names[i], 16)) for i in known], default=1)
    height = 0.75 + 0.22 * max(len(values), 1)
    return draw(name, (4.1, height), few, Margins(left=0.3 + 0.08 * longest))


def reliability(name: str, bins: Sequence[Mapping[str, Any]]) -> Picture:
    """How often the network is right against how sure it is; the bars' ink is how often."""
    total = max(sum(one["count"] for one in bins), 1)

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        for one in bins:
            width = one["high"] - one["low"]
            alpha = 0.35 + 0.65 * (one["count"] / total) ** 0.5
            axes.bar(one["low"] + width / 2, one["accuracy"], width * 0.9, color=SERIES[0],
                     alpha=min(1.0, alpha))  # fmt: skip
        axes.plot([one["confidence"] for one in bins], [one["accuracy"] for one in bins],
                  color=SERIES[1], marker="o", markersize=3.5, linewidth=1.1)  # fmt: skip
        axes.text(0.04, 0.93, "less sure than right", fontsize=8, color=MUTED)
        axes.text(0.97, 0.04, "too sure", ha="right", fontsize=8, color=MUTED)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="how sure the network is",
                 ylabel="how often it is right")  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_title("Calibration")
        axes.grid(axis="both")

    return draw(name, (4.1, 4.1), paint, Margins(left=0.65))


def timeline(name: str, attempts: Sequence[Attempt], now: datetime) -> Picture:
    """One bar an attempt, from its claim to its end; the last ones, where there are many."""
    shown = attempts[-TIMELINE_ROWS:]
    start = min(one.began_at for one in shown)  # hosts' clocks may differ
    ends = [(one.ended_at or now) for one in shown]
    total = max((end - start).total_seconds() for end in ends)
    unit, seconds = _unit(total)
    span = max(total / seconds, 1e-9)

    def paint(axes: Axes) -> None:
        for row, one in enumerate(shown):
            left = (one.began_at - start).total_seconds() / seconds
            width = max(one.seconds(now) / seconds, span * 0.004)
            axes.barh(row, width, left=left, height=0.6, color=ENDINGS[one.ending])
            right_half = left + width > span * 0.72
            axes.text(left - span * 0.01 if right_half else left + width + span * 0.01, row,
                      f"{one.stage.value}, {one.ending.value}", fontsize=8, va="center",
                      ha="right" if right_half and left > span * 0.2 else "left")  # fmt: skip
        axes.set_yticks(range(len(shown)), [f"{one.number}" for one in shown])
        axes.invert_yaxis()
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, span * 1.02)
        axes.set(xlabel=f"{unit} since the first of these began", ylabel="attempt")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_title("Attempts")

    return draw(name, (8.4, 0.85 + 0.24 * max(len(shown), 2)), paint)


def _unit(seconds: float) -> tuple[str, float]:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return unit, size
    return "seconds", 1.0


def run_bars(name: str, rows: Mapping[str, Mapping[str, float | None]]) -> Picture:
    """For each run one bar for each of a few shares, such as accuracy and certainty."""
    measures = list(next(iter(rows.values())))
    labels = [shortened(label, 30) for label in rows]
    thick = 0.8 / len(measures)

    def paint(axes: Axes) -> None:
        for place, measure in enumerate(measures):
            values = _floats([row[measure] for row in rows.values()])
            where = np.arange(len(rows)) + (place - (len(measures) - 1) / 2) * thick
            axes.barh(where, np.nan_to_num(values), height=thick * 0.86, label=measure,
                      color=SERIES[place])  # fmt: skip
            for y, value in zip(where, values, strict=True):
                text = f"{value:.1%}" if np.isfinite(value) else "not measured"
                x = 0.008 + float(np.nan_to_num(value))
                axes.text(x, float(y), text, va="center", fontsize=7.5)
        axes.set_yticks(range(len(rows)), labels)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.08)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="x")
        axes.set_title("On the test images")
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderpad=0)

    left = 0.35 + 0.078 * max(map(len, labels))
    return draw(name, (8.4, 0.85 + 0.5 * len(rows)), paint, Margins(left=left))
