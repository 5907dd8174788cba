"""The part of a page that tells of one run: curves, test results, mistakes, attempts, settings.

What a run does not have yet is said in a sentence and leaves no empty frame.
"""

import base64
import html
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from runner.queue.job import Stage
from runner.report import pictures, words
from runner.report.attempts import Attempt
from runner.report.collect import Counts, Floats, Measured, Run, number
from runner.report.examples import Library, TestPart, mistaken, strip
from runner.report.markup import Html, clean, element, join, verbatim
from runner.report.pictures import Picture

FIRST = ("loss", "top_1", "top_5")
PANELS = 6  #: metrics that are drawn
MARKS = 200  #: interruptions in a picture, the newest
ROWS = 2_000  #: of a table
ATTEMPTS = 200  #: of the table of attempts, the newest
LONGEST_SPEC = 50_000  #: characters


class Gallery:
    """Puts pictures into the page and keeps their PNGs."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def show(self, picture: Picture, alt: str, *, caption: str = "", wide: bool = False) -> Html:
        """Return a drawing as a figure that says `alt` to those who can't see it."""
        self.files[f"{picture.name}.png"] = picture.png
        label = html.escape(clean(alt))
        svg = Html(picture.svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
        return element(
            "figure",
            svg,
            element("figcaption", caption) if caption else None,
            class_="plot wide" if wide else "plot",
        )

    def photo(self, name: str, png: bytes, alt: str) -> Html:
        """Return a strip of photographs."""
        self.files[f"{name}.png"] = png
        data = base64.b64encode(png).decode()
        return Html(f'<img src="data:image/png;base64,{data}" alt="{html.escape(clean(alt))}">')


def table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Html]],
    *,
    numbers_from: int = 1,
) -> Html:
    """Return a table whose columns have heads, numbers aligned from one column on."""
    head = [
        element("th", text, scope="col", class_="n" if place >= numbers_from else None)
        for place, text in enumerate(heads)
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else None,
            element("thead", element("tr", *head)),
            element("tbody", *(element("tr", *row) for row in rows[:ROWS])),
        ),
        class_="scroll",
    )


def article(run: Run, gallery: Gallery, library: Library, now: datetime) -> Html:
    """Return everything about a run."""
    job = run.job
    heading = element("h2", job.id, id=f"title-{job.id}")
    description = run.spec.get("description")
    return element(
        "article",
        element(
            "div", heading, element("span", run.state, class_=f"state {run.state}"), class_="title"
        ),
        element("p", str(description), class_="quiet") if description else None,
        element("p", words.summary(run), class_="summary"),
        _key_figures(run),
        _notes(run),
        _curves(run, gallery),
        *_results(run, gallery, library),
        _attempts(run, gallery, now),
        _settings(run),
        id=f"run-{job.id}",
        aria_labelledby=f"title-{job.id}",
    )


def _key_figures(run: Run) -> Html:
    pairs: dict[str, str] = {}
    if (measured := run.measured) is not None:
        for name, label in (
            ("top_1", "Top-1"),
            ("top_5", "Top-5"),
            ("loss", "Loss"),
            ("certainty", "Certainty"),
            ("consistency", "Consistency"),
            ("expected_calibration_error", "Calibration error"),
        ):
            value = measured.number(name)
            pairs[label] = words.decimal(value) if name == "loss" else words.percent(value)
    if run.parameters is not None:
        pairs["Parameters"] = f"{run.parameters:,}"
    if measured is not None and (speed := measured.number("images_per_second")):
        pairs["Images/s, inference"] = f"{speed:,.0f}"
    pairs |= {"Epochs": f"{run.job.epoch:,}", "Steps": f"{run.job.step:,}"}
    pairs |= {"Attempts": f"{run.job.attempts:,}", "Preemptions": f"{run.job.preemptions:,}"}
    cells = [
        element("div", element("dt", label), element("dd", value)) for label, value in pairs.items()
    ]
    return element("dl", *cells, class_="figures facts")


def _notes(run: Run) -> Html | None:
    said = [*run.problems, *run.job.notes]
    if not said:
        return None
    items = [element("li", text) for text in said]
    return join(element("h3", "To be known"), element("ul", *items, class_="plain"))


def _curves(run: Run, gallery: Gallery) -> Html:
    names = {name.removeprefix("val_") for name in run.history}
    ordered = [*(name for name in FIRST if name in names), *sorted(names - set(FIRST))]
    drawn, marks = [], run.interruptions[-MARKS:]
    for metric in ordered[:PANELS]:
        training, validation = run.history.get(metric, ()), run.history.get(f"val_{metric}", ())
        picture = pictures.curve(
            f"{run.job.id}-{_file(metric)}",
            words.title(metric),
            training,
            validation,
            marks,
            share=metric.startswith("top_"),
        )
        alt = words.curve(metric, training, validation, marks)
        drawn.append(gallery.show(picture, alt))
    if not drawn:
        text = "No epoch has been finished and saved yet, so there is nothing to draw."
        return join(element("h3", "Learning curves"), element("p", text, class_="quiet"))
    return join(
        element("h3", "Learning curves"),
        element("div", *drawn, class_="plots"),
        _marks(run),
        _epochs(run, ordered),
    )


def _file(metric: str) -> str:
    """Return a metric's name as a part of a file's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in metric)[:40]


def _marks(run: Run) -> Html | None:
    if not run.interruptions:
        return None
    said = "; ".join(words.interruption(mark) for mark in run.interruptions[:20])
    more = len(run.interruptions) - 20
    tail = f"; and {more} more." if more > 0 else "."
    return element("p", f"Triangles mark interruptions: {said}{tail}", class_="quiet")


def _epochs(run: Run, metrics: Sequence[str]) -> Html:
    names = [n for metric in metrics for n in (metric, f"val_{metric}") if n in run.history]
    rows = [
        [
            element("th", epoch + 1, scope="row"),
            *(
                element(
                    "td", words.decimal(values[epoch] if epoch < len(values) else None), class_="n"
                )
                for values in (run.history[name] for name in names)
            ),
        ]
        for epoch in range(min(run.epochs, ROWS))
    ]
    return element(
        "details", element("summary", "Numbers of every epoch"), table("", ["Epoch", *names], rows)
    )


def _results(run: Run, gallery: Gallery, library: Library) -> Iterator[Html | None]:
    yield element("h3", "On the test images")
    measured = run.measured
    if measured is None:
        waits = "It was not evaluated yet." if not run.job.ended else "There is no evaluation."
        yield element("p", waits, class_="quiet")
        return
    part = library.test_part(run)
    names = measured.class_names or (part.class_names if isinstance(part, TestPart) else ())
    yield _passes(measured)
    if (counts := measured.confusion) is not None:
        yield _matrices(run, measured, names, gallery)
        yield _classes(run, measured, names, part, gallery)
        yield _mistakes(run, counts, names, part, gallery)
    else:
        yield _pairs_as_stored(measured)
    yield _calibration(run, measured, gallery)


def _passes(measured: Measured) -> Html | None:
    augmented = measured.metrics.get("augmented")
    if not isinstance(augmented, dict):
        return None
    rows = [
        [
            element("th", label, scope="row"),
            *(
                element("td", words.shown(name, number(one.get(name))), class_="n")
                for name in FIRST
            ),
        ]
        for label, one in (("as they are", measured.metrics), ("changed at random", augmented))
    ]
    passes = int(measured.number("augmented_passes") or 0)
    caption = f"The images as they are, and the mean of {words.count(passes, 'pass', 'passes')}"
    heads = ["Images", *(words.title(name) for name in FIRST)]
    return table(f"{caption} through the augmentation.", heads, rows)


def _matrices(run: Run, measured: Measured, names: Sequence[str], gallery: Gallery) -> Html:
    drawn = []
    for suffix, heading, counts in (
        ("confusion", "Confusion", measured.confusion),
        ("confusion-augmented", "Confusion, augmented", measured.augmented),
    ):
        if counts is not None:
            numbers = range(len(counts))
            labels = [words.class_name(names, n) if names else str(n) for n in numbers]
            picture = pictures.confusion(f"{run.job.id}-{suffix}", heading, counts, labels)
            drawn.append(gallery.show(picture, f"{heading}. {words.confusion(counts, names)}"))
    return element("div", *drawn, class_="plots pair")


def _classes(
    run: Run, measured: Measured, names: Sequence[str], part: TestPart | str, gallery: Gallery
) -> Html:
    """Return the classes' accuracy, beside the worst of them where the picture is small."""
    shares, counts = measured.per_class, measured.confusion
    assert shares is not None  # noqa: S101 - there is a confusion matrix
    assert counts is not None  # noqa: S101
    labels = [words.class_name(names, index) for index in range(len(shares))]
    picture = pictures.class_bars(f"{run.job.id}-classes", "Accuracy by class", shares, labels)
    wide = len(shares) > pictures.NAMED_CLASSES
    drawn = gallery.show(picture, words.class_bars(shares, names), wide=wide)
    worst = element("div", _worst(run, counts, names, part, gallery))
    return join(
        element("h4", "Classes"),
        join(drawn, worst) if wide else element("div", drawn, worst, class_="plots pair"),
        _class_table(labels, counts, shares),
    )


def _class_table(labels: Sequence[str], counts: Counts, shares: Floats) -> Html:
    rows = [
        [
            element("th", label, scope="row"),
            element("td", f"{int(counts[index].sum()):,}", class_="n"),
            element("td", f"{int(counts[index, index]):,}", class_="n"),
            element("td", words.percent(number(float(shares[index]))), class_="n"),
        ]
        for index, label in enumerate(labels)
    ]
    return element(
        "details",
        element("summary", "Numbers of every class"),
        table("", ["Class", "Images", "Recognised", "Accuracy"], rows),
    )


def _worst(
    run: Run, counts: Counts, names: Sequence[str], part: TestPart | str, gallery: Gallery
) -> Html:
    bad = words.worst(counts)
    if not bad:
        return element("p", "Every image of every class was recognised.")
    items = [
        element(
            "li",
            f"{words.bad_class(counts, index, names)}.",
            _pictures_of(run, index, None, names, part, gallery),
        )
        for index in bad
    ]
    return join(element("h4", "Recognised least"), element("ol", *items, class_="mistakes"))


def _mistakes(
    run: Run, counts: Counts, names: Sequence[str], part: TestPart | str, gallery: Gallery
) -> Html | None:
    found = words.mistakes(counts)
    if not found:
        return None
    items = [
        element(
            "li",
            f"{words.mistake(one, names)}.",
            _pictures_of(run, one.true, one.predicted, names, part, gallery),
        )
        for one in found
    ]
    without = f"No example images: {part}." if isinstance(part, str) else None
    return join(
        element("h4", "Most frequent mistakes"),
        element("ol", *items, class_="mistakes"),
        element("p", without, class_="quiet") if without else None,
    )


def _pictures_of(
    run: Run,
    true: int,
    taken_for: int | None,
    names: Sequence[str],
    part: TestPart | str,
    gallery: Gallery,
) -> Html | None:
    """Return some of the images of a class that were mistaken, beside one another."""
    if isinstance(part, str) or run.measured is None:
        return None
    found = mistaken(run.measured, true, taken_for)
    if not len(found) or found[-1] >= len(part.images):
        return None
    what = words.class_name(names, true)
    other = "another class" if taken_for is None else words.class_name(names, taken_for)
    alt = f"{words.count(len(found), 'test image')} of {what}, each taken for {other}"
    name = f"{run.job.id}-{true}-as-{'other' if taken_for is None else taken_for}"
    return element("div", gallery.photo(name, strip(part.images[found]), alt), class_="strip")


def _pairs_as_stored(measured: Measured) -> Html | None:
    pairs = measured.metrics.get("confused")
    said = [
        element(
            "li",
            f"{' and '.join(map(str, pair['classes']))} are taken for each other in"
            f" {pair['count']} images.",
        )
        for pair in (pairs if isinstance(pairs, list) else [])
        if isinstance(pair, dict) and isinstance(pair.get("classes"), list) and "count" in pair
    ]
    return join(element("h4", "Most frequent mistakes"), element("ol", *said)) if said else None


def _calibration(run: Run, measured: Measured, gallery: Gallery) -> Html | None:
    bins = measured.reliability
    if not bins:
        return None
    said = words.calibration(measured)
    rows = [
        [
            element("th", f"{one['low']:.0%} to {one['high']:.0%}", scope="row"),
            element("td", f"{one['count']:,}", class_="n"),
            element("td", words.percent(one["confidence"]), class_="n"),
            element("td", words.percent(one["accuracy"]), class_="n"),
        ]
        for one in bins
    ]
    picture = pictures.reliability(f"{run.job.id}-calibration", bins)
    return join(
        element("h4", "Calibration"),
        element(
            "div",
            gallery.show(picture, f"Reliability diagram. {said}"),
            element(
                "div",
                element("p", said),
                table("", ["Sure", "Images", "Mean sureness", "Right"], rows),
            ),
            class_="plots pair",
        ),
    )


def _attempts(run: Run, gallery: Gallery, now: datetime) -> Html:
    heading = element("h3", "Attempts")
    if not run.attempts:
        return join(heading, element("p", "No worker has taken it up yet.", class_="quiet"))
    rows = [
        [
            element("th", one.number, scope="row"),
            element("td", one.stage.value),
            element("td", clean(one.host, limit=60)),
            element("td", words.moment(one.began_at), class_="t"),
            element("td", words.duration(one.seconds(now)), class_="n"),
            element("td", one.ending.value + (f": {one.reason}" if one.reason else "")),
            element(
                "td",
                f"{one.first_step:,} to {one.saved_step:,}"
                if one.stage is Stage.TRAIN
                else words.ABSENT,
                class_="n",
            ),
            element("td", _lost(one), class_="n"),
        ]
        for one in run.attempts[-ATTEMPTS:]
    ]
    picture = pictures.timeline(f"{run.job.id}-attempts", run.attempts, now)
    heads = ["Attempt", "Stage", "Host", "Began", "Took", "Ended", "Steps saved", "Steps lost"]
    return join(
        heading,
        gallery.show(picture, words.timeline(run.attempts, now), wide=True),
        table(
            "Steps lost: done, as its last heartbeat told, but not saved; they were repeated."
            " A lost attempt ended with its last sign of life.",
            heads,
            rows,
            numbers_from=6,
        ),
    )


def _lost(one: Attempt) -> str:
    if one.lost_steps is None:
        return "not known" if one.stage is Stage.TRAIN else words.ABSENT
    vague = one.ending in words.VAGUE  # what it did after its last heartbeat, nobody knows
    return f"{'at least ' if vague else ''}{one.lost_steps:,}"


def _settings(run: Run) -> Html:
    spec = json.dumps(dict(run.spec), indent=2, ensure_ascii=False, default=str)
    return join(
        element("h3", "Settings and environment"),
        _environment(run),
        element(
            "details",
            element("summary", "The whole spec, every default written out"),
            verbatim(spec, limit=LONGEST_SPEC),
        ),
    )


LABELS = {
    "tensorflow": "TensorFlow",
    "keras": "Keras",
    "threads": "Threads of an operation",
    "deterministic": "Deterministic operations",
    "onednn": "oneDNN",
    "cpu": "Processor",
    "accelerators": "GPUs",
    "xla": "XLA",
    "eager": "Eager",
    "precision": "Precision",
    "replicas": "Replicas",
    "data": "Training data",
    "git_commit": "Git commit",
}


def _environment(run: Run) -> Html:
    if not run.numerics:
        text = "Nothing is recorded yet: the first checkpoint tells of versions and hardware."
        return element("p", text, class_="quiet")
    commits = list(dict.fromkeys(one.git_commit for one in run.attempts if one.git_commit))
    known = {**run.numerics, "git_commit": commits or "none: not started in a repository"}
    ordered = [*(name for name in LABELS if name in known), *sorted(known.keys() - LABELS.keys())]
    pairs = [
        part
        for name in ordered[:60]
        for part in (element("dt", LABELS.get(name, name)), element("dd", _word(known[name])))
    ]
    return element("dl", *pairs, class_="pairs")


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
