"""What the pictures and tables of a report say, in sentences: for all who read rather than look.

Pure functions from plain data to text. Numbers are those of the records, rounded for reading.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from runner.queue.job import Stage
from runner.report.attempts import Attempt, Ending, Interruption
from runner.report.collect import Counts, Floats, Measured, Run

ABSENT = "—"  #: where there is no number
TITLES = {"loss": "Loss", "top_1": "Top-1 accuracy", "top_5": "Top-5 accuracy"}
MISTAKES = 10  #: pairs of classes named
WORST = 5  #: classes named
#: ends after which nobody knows what was done since the last heartbeat
VAGUE = frozenset({Ending.LOST, Ending.FAILED, Ending.CANCELLED})

Values = Sequence[float | None]


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, or a dash."""
    return ABSENT if value is None else f"{value:.{digits}%}"


def decimal(value: float | None, digits: int = 4) -> str:
    """Return a number, or a dash."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def count(number: int, word: str, plural: str = "") -> str:
    """Return `1 epoch`, `2 epochs`, `1,200 images`."""
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def duration(seconds: float) -> str:
    """Return `42 s`, `3 min 05 s`, `2 h 05 min`, `3 d 04 h`."""
    whole = round(seconds)
    for large, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60)):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part:02d} {small}"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def moment(time: datetime) -> str:
    """Return a time in UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def title(metric: str) -> str:
    """Return the heading of a metric."""
    return TITLES.get(metric, metric.replace("_", " "))


def shown(metric: str, value: float | None) -> str:
    """Return a metric's value in its own form: shares in percent."""
    return percent(value) if metric.startswith("top_") else decimal(value)


def summary(run: Run) -> str:
    """Return the sentences at the top of a run."""
    return " ".join([_state(run), *_efforts(run), *_result(run)])


def _state(run: Run) -> str:
    job, total = run.job, _epochs_at_most(run)
    where = f"epoch {job.epoch}{f' of at most {total}' if total else ''}, step {job.step:,}"
    if run.beat is not None and run.beat.step > job.step:
        where += f" saved, step {run.beat.step:,} reached"
    evaluating = job.stage is Stage.EVALUATE
    stands = {
        "succeeded": f"Finished after {count(job.epoch, 'epoch')} ({count(job.step, 'step')}).",
        "running": "Trained, and being evaluated now." if evaluating else f"In training: {where}.",
        "lost": f"Its worker gives no sign of life; it stands at {where} and can be resumed.",
        "queued": "Trained; its evaluation waits for a worker."
        if evaluating
        else f"Waits for a worker at {where}."
        if job.attempts
        else "Has not been started yet.",
        "held": f"Held back by its user at {where}.",
        "failed": f"Failed at {where}: {job.reason or 'no reason was recorded'}.",
        "cancelled": f"Cancelled at {where}.",
    }
    return stands.get(run.state, f"{run.state}: {where}.")


def _epochs_at_most(run: Run) -> int | None:
    training = run.spec.get("training")
    epochs = training.get("epochs") if isinstance(training, dict) else None
    return epochs if isinstance(epochs, int) else None


def _efforts(run: Run) -> Iterator[str]:
    if not run.attempts:
        return
    cut = len(run.interruptions)
    if cut == 0:
        yield "Its training was never interrupted."
        return
    times = "once" if cut == 1 else f"{cut} times"
    yield f"Its training was interrupted {times}{_cost(run.attempts)}."


def _cost(attempts: Sequence[Attempt]) -> str:
    """Say how many steps had to be repeated. A death after the last heartbeat may hide some."""
    steps = sum(one.lost_steps or 0 for one in attempts)
    vague = any(one.ending in VAGUE for one in attempts)
    if vague and not steps:
        return ""
    return f", which cost {'at least ' if vague else ''}{count(steps, 'step')}"


def _result(run: Run) -> Iterator[str]:
    measured = run.measured
    if measured is None:
        if run.state == "succeeded":
            yield "It was not evaluated: its spec asks for none."
        elif best := _best(run):
            yield best
        return
    images = measured.number("images")
    what = f"the {count(int(images), 'test image')}" if images else "the test images"
    yield (
        f"Of {what} it recognises {percent(measured.number('top_1'))}"
        f" ({percent(measured.number('top_5'))} within its first five guesses)."
    )
    if passes := int(measured.number("augmented_passes") or 0):
        yield (
            f"Looked at {passes + 1} times each, {passes} of them changed at random, they are"
            f" recognised in {percent(measured.number('certainty'))} of all looks (certainty)."
        )


def _best(run: Run) -> str | None:
    values = [value for value in run.history.get("val_top_1", ()) if value is not None]
    if not values:
        return None
    return f"Its best validation accuracy so far is {percent(max(values))}."


def curve(metric: str, training: Values, validation: Values, marks: Sequence[Interruption]) -> str:
    """Describe a curve's beginning, end and best value."""
    parts = [
        f"{name} {text}"
        for name, values in (("training", training), ("validation", validation))
        if (text := _course(metric, values))
    ]
    cut = f"; interrupted at {', '.join(f'epoch {mark.epoch:.2g}' for mark in marks[:20])}"
    words = "; ".join(parts) or "no finite value"
    return f"{title(metric)} by epoch: {words}{cut if marks else ''}."


def _course(metric: str, values: Values) -> str:
    known = [(epoch, value) for epoch, value in enumerate(values, 1) if value is not None]
    if not known:
        return ""
    best = (min if "loss" in metric else max)(known, key=lambda one: one[1])
    first, last = known[0][1], known[-1][1]
    if len(known) == 1:
        return f"{shown(metric, first)} after {count(known[0][0], 'epoch')}"
    return (
        f"from {shown(metric, first)} to {shown(metric, last)} in {count(len(values), 'epoch')},"
        f" best {shown(metric, best[1])} at epoch {best[0]}"
    )


def interruption(mark: Interruption) -> str:
    """Say where a training was cut short."""
    how = {"lost": "was lost", "preempted": "was preempted", "failed": "failed"}
    word = how.get(mark.ending.value, f"was {mark.ending.value}")
    place = f"step {mark.step:,} (epoch {mark.epoch:.2f})"
    return f"attempt {mark.attempt} {word}; the next goes on from {place}"


def class_name(names: Sequence[str], index: int) -> str:
    """Return a class's name, its number where it has none."""
    return names[index] if index < len(names) else f"class {index}"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One class taken for another."""

    true: int
    predicted: int
    count: int
    images: int  #: of the true class


def mistakes(confusion: Counts, most: int = MISTAKES) -> list[Mistake]:
    """Return the mistakes made most often, in either direction by itself."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    totals = confusion.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        Mistake(true=int(a), predicted=int(b), count=int(wrong[a, b]), images=int(totals[a]))
        for a, b in places
        if wrong[a, b]
    ]


def mistake(one: Mistake, names: Sequence[str]) -> str:
    """Say `oak_tree is taken for maple_tree in 31 of 100 images`."""
    true, taken_for = class_name(names, one.true), class_name(names, one.predicted)
    return f"{true} is taken for {taken_for} in {one.count:,} of {count(one.images, 'image')}"


def worst(confusion: Counts, most: int = WORST) -> list[int]:
    """Return the classes that are recognised least, the worst first; perfect ones are not bad."""
    totals = confusion.sum(axis=1)
    shares = np.diagonal(confusion) / np.maximum(totals, 1)
    order = np.argsort(shares, kind="stable")
    return [int(i) for i in order if totals[i] and shares[i] < 1][:most]


def bad_class(confusion: Counts, index: int, names: Sequence[str]) -> str:
    """Say how a class fares, and for what it is taken."""
    row = confusion[index].copy()
    right, images = int(row[index]), int(row.sum())
    row[index] = 0
    taken_for, times = int(row.argmax()), int(row.max())
    name = class_name(names, index)
    return (
        f"{name}: {right:,} of {count(images, 'image')} recognised, most often taken for"
        f" {class_name(names, taken_for)} ({times:,})"
    )


def confusion(counts: Counts, names: Sequence[str]) -> str:
    """Describe a confusion matrix."""
    total, right = int(counts.sum()), int(np.trace(counts))
    top = [mistake(one, names) for one in mistakes(counts, 3)]
    often = f" Most frequent mistakes: {'; '.join(top)}." if top else " There is no mistake."
    return (
        f"Confusion matrix of {count(len(counts), 'class', 'classes')}: {right:,} of {total:,}"
        f" predictions lie on the diagonal.{often}"
    )


def class_bars(shares: Floats, names: Sequence[str]) -> str:
    """Describe the accuracy of the classes."""
    known = [int(i) for i in np.argsort(-shares, kind="stable") if np.isfinite(shares[i])]
    if not known:
        return "Accuracy by class: no class has test images."

    def named(some: Sequence[int]) -> str:
        return ", ".join(f"{class_name(names, i)} {percent(float(shares[i]), 0)}" for i in some)

    mean = percent(float(np.nanmean(shares)))
    return (
        f"Accuracy by class: mean {mean}. Best: {named(known[:3])}."
        f" Worst: {named(known[::-1][:3])}."
    )


def calibration(measured: Measured) -> str:
    """Say whether the network is as sure as it is right."""
    bins = measured.reliability
    images = sum(one["count"] for one in bins)
    if not images:
        return "Calibration: no image was counted."
    sure = sum(one["count"] * one["confidence"] for one in bins) / images
    right = sum(one["count"] * one["accuracy"] for one in bins) / images
    verdict = "about as sure as it is right"
    if abs(sure - right) >= 0.02:
        verdict = "too sure of itself" if sure > right else "less sure than it could be"
    return (
        f"On average it is {percent(sure)} sure and {percent(right)} right: {verdict}. Expected"
        f" calibration error {percent(measured.number('expected_calibration_error'))}."
    )


def timeline(attempts: Sequence[Attempt], now: datetime) -> str:
    """Describe the attempts."""
    some = "; ".join(
        f"{one.number}: {one.stage.value} on {one.host}, {duration(one.seconds(now))},"
        f" {one.ending.value}"
        for one in attempts[-20:]
    )
    return f"Timeline of {count(len(attempts), 'attempt')}. {some}."
