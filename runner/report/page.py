"""A report as one HTML page that needs nothing else: no script, no other file, no network.

Every picture says its numbers in words too, every table names its rows and columns, and all
text from the bucket is text: `markup` escapes it, and the page forbids scripts besides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from runner.report import pictures, words
from runner.report.collect import Report, Run, number
from runner.report.examples import Library
from runner.report.markup import Html, element, join
from runner.report.sections import Gallery, article, table

DRAWN = 40  #: runs in one picture; the table has all
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What `runner report` writes."""

    html: str
    pictures: Mapping[str, bytes]  #: file name -> PNG


def render(report: Report) -> Page:
    """Draw everything and set the page.

    Example:
        >>> page = render(collect(queue, [], now=utc_now()))
        >>> Path("report.html").write_text(page.html)
    """
    gallery, library = Gallery(), Library()
    body = join(
        _header(report),
        _problems(report),
        _comparison(report.runs, gallery) if len(report.runs) > 1 else None,
        *(article(run, gallery, library, report.made_at) for run in report.runs),
    )
    return Page(html=_document(body), pictures=gallery.files)


def _document(body: Html) -> str:
    style = files("runner.report").joinpath("page.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", "Training report"),
        element("style", Html(style)),
    )
    page = element("html", head, element("body", element("main", body)), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _header(report: Report) -> Html:
    runs = report.runs
    ended = sum(run.job.ended for run in runs)
    what = words.count(len(runs), "run")
    said = f"{what}, {ended} of them ended" if runs else "There are no jobs in this store yet"
    links = [element("li", element("a", run.job.id, href=f"#run-{run.job.id}")) for run in runs]
    return element(
        "header",
        element("h1", "Training report"),
        element(
            "p", f"{said}. From {report.store}, {words.moment(report.made_at)}.", class_="quiet"
        ),
        element("nav", element("ul", *links), aria_label="Runs") if len(runs) > 1 else None,
    )


def _problems(report: Report) -> Html | None:
    if not report.problems:
        return None
    return element(
        "section",
        element("h2", "What could not be read"),
        element("ul", *(element("li", text) for text in report.problems), class_="plain"),
        class_="problems",
    )


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One measure of the table of runs."""

    title: str
    value: Callable[[Run], float | None]
    text: Callable[[float], str]
    best: Callable[[Sequence[float]], float] | None = None  #: max, min or neither


def _measure(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.measured.number(name) if run.measured else None


def _whole(value: float) -> str:
    return f"{value:,.0f}"


COLUMNS = (
    _Column(title="Top-1", value=_measure("top_1"), text=words.percent, best=max),
    _Column(title="Top-5", value=_measure("top_5"), text=words.percent, best=max),
    _Column(title="Loss", value=_measure("loss"), text=words.decimal, best=min),
    _Column(title="Certainty", value=_measure("certainty"), text=words.percent, best=max),
    _Column(title="Consistency", value=_measure("consistency"), text=words.percent, best=max),
    _Column(
        title="ECE", value=_measure("expected_calibration_error"), text=words.percent, best=min
    ),
    _Column(title="Parameters", value=lambda run: run.parameters, text=_whole),
    _Column(title="Epochs", value=lambda run: run.job.epoch, text=_whole),
    _Column(title="Images/s", value=_measure("images_per_second"), text=_whole),
    _Column(title="Attempts", value=lambda run: run.job.attempts, text=_whole),
    _Column(title="Preempted", value=lambda run: run.job.preemptions, text=_whole),
)


def _comparison(runs: Sequence[Run], gallery: Gallery) -> Html:
    return element(
        "section",
        element("h2", "All runs"),
        _best_of(runs),
        table(
            "Measured on the test images; the best value of a column is bold. ECE: expected"
            " calibration error. Images/s: of inference.",
            ["Run", *(column.title for column in COLUMNS)],
            [_row(run, runs) for run in runs],
        ),
        element("p", f"The pictures show the newest {DRAWN} runs.") if len(runs) > DRAWN else None,
        _bars(runs[-DRAWN:], gallery),
        _overlays(runs[-DRAWN:], gallery),
        id="comparison",
    )


def _best_of(runs: Sequence[Run]) -> Html | None:
    known = [(run.measured.number("top_1"), run) for run in runs if run.measured]
    scored = [(value, run.job.id) for value, run in known if value is not None]
    if len(scored) < 2:
        return None
    (value, name), (other, second) = sorted(scored, key=lambda one: -one[0])[:2]
    return element(
        "p",
        f"{name} recognises most: {words.percent(value)} of the test images, before {second}"
        f" with {words.percent(other)}.",
        class_="summary",
    )


def _row(run: Run, runs: Sequence[Run]) -> list[Html]:
    link = element("a", run.job.id, href=f"#run-{run.job.id}")
    state = element("span", run.state, class_=run.state)
    cells = [element("th", link, state, scope="row")]
    for column in COLUMNS:
        value = number(column.value(run))
        values = [v for one in runs if (v := number(column.value(one))) is not None]
        leads = column.best is not None and len(values) > 1 and value == column.best(values)
        text = words.ABSENT if value is None else column.text(value)
        cells.append(element("td", text, class_="n best" if leads else "n"))
    return cells


def _bars(runs: Sequence[Run], gallery: Gallery) -> Html | None:
    rows = {
        run.job.id: {
            "top-1 accuracy": run.measured.number("top_1"),
            "certainty": run.measured.number("certainty"),
        }
        for run in runs
        if run.measured is not None
    }
    if not rows:
        return None
    said = "; ".join(
        f"{name}: {', '.join(f'{what} {words.percent(value)}' for what, value in row.items())}"
        for name, row in rows.items()
    )
    picture = pictures.run_bars("all-accuracy-and-certainty", rows)
    return gallery.show(picture, f"Accuracy and certainty of the runs. {said}.", wide=True)


def _overlays(runs: Sequence[Run], gallery: Gallery) -> Html | None:
    found = []
    for metric in ("loss", "top_1", "top_5"):
        lines = {run.job.id: values for run in runs if (values := run.history.get(f"val_{metric}"))}
        if lines:
            heading = f"Validation {words.title(metric).lower()}"
            picture = pictures.overlay(
                f"all-{metric}", heading, lines, share=metric.startswith("top_")
            )
            said = " ".join(
                f"{name}: {words.curve(metric, (), values, ())}" for name, values in lines.items()
            )
            found.append(gallery.show(picture, f"{heading} of the runs. {said}"))
    if not found:
        return None
    return join(element("h3", "Validation curves"), element("div", *found, class_="plots"))
