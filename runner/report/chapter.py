"""What the page shows of one run: its curves, test results, mistakes, attempts and settings."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from runner.queue.texts import count
from runner.report import curves, words
from runner.report.collect import Floats, Measured, Run, clean
from runner.report.curves import Curve
from runner.report.examples import Images, Library, TestPart, mistaken, strip

if TYPE_CHECKING:  # matplotlib, which a page that is made often does without
    from runner.report.pictures import Picture

FIRST = ("loss", "top_1", "top_5")  #: of the curves; the learning rate is no metric, and last
ROWS = 2_000  #: of a table
LONGEST_SPEC = 50_000  #: characters


class Gallery:
    """Puts pictures into the page and keeps their PNGs, and what the page's script draws."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.curves: list[dict[str, Any]] = []  #: of the figures that name their number

    def plots(self, drawn: "Iterable[Picture]") -> Markup:
        """Return drawings as figures."""
        return Markup("").join(map(self._figure, drawn))

    def lines(self, some: Iterable[Curve]) -> Markup:
        """Return curves as figures: a picture, in whose place the page's script draws another."""
        figures = []
        for curve in some:
            tag = Markup('<figure data-curve="{}">').format(len(self.curves))
            self.curves.append(curve.document())
            figures.append(self._still(curve).replace("<figure>", tag, 1))
        return Markup("").join(figures)

    def _still(self, curve: Curve) -> Markup:
        from runner.report import pictures

        return self._figure(pictures.curve(curve))

    def _figure(self, one: "Picture") -> Markup:
        self.files[f"{one.name}.png"] = one.png
        return _figure(one.svg, one.said)

    def photos(self, name: str, images: Images, said: str) -> Markup:
        """Return a strip of photographs."""
        self.files[f"mistakes/{name}.png"] = png = strip(images)
        tag = Markup('<img src="data:image/png;base64,{}" alt="{}">')
        return tag.format(base64.b64encode(png).decode(), clean(said))


class Sketches(Gallery):
    """Draws nothing but curves, and those without matplotlib."""

    def plots(self, drawn: "Iterable[Picture]") -> Markup:  # noqa: ARG002, D102
        return Markup("")

    def _still(self, curve: Curve) -> Markup:
        names = Markup("").join(
            Markup('<span style="--line: var(--series-{})">{}</span>').format(
                line.colour, clean(line.label, limit=80)
            )
            for line in curve.lines
        )
        figure = _figure(curves.sketch(curve), curve.said)
        return figure.replace(
            "</figure>", Markup("<figcaption>{}</figcaption></figure>").format(names)
        )


def _figure(svg: str, said: str) -> Markup:
    label = Markup('<svg role="img" aria-label="{}" ').format(clean(said))
    return Markup(f"<figure>{svg.replace('<svg ', label, 1)}</figure>")  # noqa: S704 - drawn here


def metrics_of(runs: Iterable[Run]) -> list[str]:
    """Return what was measured after each epoch, in the training or the validation."""
    names = {name.removeprefix("val_") for run in runs for name in run.history} - {""}
    order = (*FIRST, "", "learning_rate")
    return sorted(names, key=lambda name: (order.index(name if name in order else ""), name))


def chapter(run: Run, gallery: Gallery, library: Library, now: datetime) -> dict[str, Any]:
    """Return what the template shows of a run, its pictures drawn."""
    metrics = metrics_of([run])
    columns = [n for metric in metrics for n in (metric, f"val_{metric}") if n in run.history]
    spec = json.dumps(dict(run.spec), indent=2, ensure_ascii=False, default=str)
    return {
        "run": run,
        "curves": gallery.lines(curves.of_run(run, metric) for metric in metrics),
        "columns": ["Epoch", *(words.column(name) for name in columns)],
        "epochs": list(zip_longest(*(run.history[name] for name in columns)))[:ROWS],
        "results": _results(run, run.measured, gallery, library) if run.measured else None,
        "timeline": gallery.plots(_attempts(run, now) if run.attempts else []),
        "spent": words.spent(run.view.time or {}, run.view.cost),
        "environment": _environment(run),
        "spec": Markup.escape(clean(spec, limit=LONGEST_SPEC, lines=True)),
    }


def _attempts(run: Run, now: datetime) -> "Iterator[Picture]":
    """Draw when they were, and what their time went into."""
    from runner.report import pictures

    yield pictures.timeline(run, now)
    bars = {str(one.number): one.parts(now) for one in run.attempts[-pictures.TIMELINE_ROWS :]}
    yield pictures.spending(f"{run.job.id}-time", "attempt", bars)


def _results(run: Run, measured: Measured, gallery: Gallery, library: Library) -> dict[str, Any]:
    part = library.test_part(run)
    names = measured.class_names or (part.class_names if isinstance(part, TestPart) else ())
    counts, shares = measured.confusion, measured.per_class
    found: dict[str, Any] = {
        "augmented": measured.metrics.get("augmented"),
        "why": part if isinstance(part, str) else None,
        "calibration": gallery.plots(_calibration(run, measured)),
        "classes": None,
    }
    if counts is None or shares is None:
        return found

    def examples(mistakes: Sequence[words.Mistake]) -> Iterator[tuple[str, Markup | None]]:
        """Return sentences with some of their images, where they are here."""
        for true, taken_for, text in mistakes:
            images = None if isinstance(part, str) else mistaken(measured, part, true, taken_for)
            if images is None or not len(images):
                yield text, None
                continue
            other = "another class" if taken_for is None else words.class_name(names, taken_for)
            what = f"{count(len(images), 'test image')} of {words.class_name(names, true)}"
            name = f"{run.job.id}-{true}-as-{'other' if taken_for is None else taken_for}"
            yield text, gallery.photos(name, images, f"{what}, each taken for {other}")

    labels = [words.class_name(names, index) for index in range(len(shares))]
    return found | {
        "matrices": gallery.plots(_matrices(run, measured, names)),
        "bars": gallery.plots(_class_bars(run, shares, names)),
        "classes": list(zip(labels, counts.sum(axis=1), np.diagonal(counts), shares, strict=True)),
        "worst": list(examples(words.worst(counts, names, run.noun))),
        "mistakes": list(examples(words.mistakes(counts, names, run.noun))),
    }


def _matrices(run: Run, measured: Measured, names: Sequence[str]) -> "Iterator[Picture]":
    from runner.report import pictures

    for name, title, counts in (
        ("confusion", "Confusion", measured.confusion),
        ("confusion-augmented", "Confusion, augmented", measured.augmented),
    ):
        if counts is not None:
            yield pictures.confusion(f"{run.job.id}-{name}", title, counts, names)


def _class_bars(run: Run, shares: Floats, names: Sequence[str]) -> "Iterator[Picture]":
    from runner.report import pictures

    yield pictures.class_bars(f"{run.job.id}-classes", shares, names)


def _calibration(run: Run, measured: Measured) -> "Iterator[Picture]":
    if measured.reliability:
        from runner.report import pictures

        yield pictures.reliability(f"{run.job.id}-calibration", measured)


def _environment(run: Run) -> dict[str, Any]:
    """Return versions, hardware and data; none before the first checkpoint."""
    if not run.numerics:
        return {}
    commits = list(dict.fromkeys(one.git_commit for one in run.attempts if one.git_commit))
    return {**run.numerics, "git_commit": commits or "none: not started in a repository"}
