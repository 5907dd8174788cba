"""What the pictures and tables of a report say, in sentences: for all who read rather than look.

Pure functions from plain data to text. Numbers are those of the records, rounded for reading.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from runner.queue import goodput, texts
from runner.queue.goodput import CAUSES, SHOWN, Seconds
from runner.queue.job import Stage
from runner.queue.texts import count, duration, finite
from runner.report.attempts import Attempt
from runner.report.collect import Counts, Measured, Run
from runner.training.best import HIGHER

ABSENT = "—"  #: where there is no number
TITLES = {
    "loss": "Loss", "top_1": "Top-1 accuracy", "top_5": "Top-5 accuracy", "certainty": "Certainty",
    "consistency": "Consistency", "expected_calibration_error": "Calibration error",
}  # fmt: skip
#: the same in the head of a column
HEADS = {**TITLES, "top_1": "Top-1", "top_5": "Top-5", "expected_calibration_error": "ECE"}
SHARES = ("certainty", "consistency", "expected_calibration_error")  #: beside top_1, top_5
LOWER = ("loss", "error", "mae", "mse")  #: in the names of what is better when it is lower
MISTAKES = 10  #: pairs of classes named
MARKS = 20  #: interruptions in words
WORST = 5  #: classes named

Values = Sequence[float | None]
Mistake = tuple[int, int | None, str]  #: class, the one it was taken for or any, a sentence


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, or a dash."""
    return ABSENT if value is None else f"{value:.{digits}%}"


def decimal(value: float | None) -> str:
    """Return a number, or a dash."""
    return ABSENT if value is None else texts.decimal(value)


def whole(value: float | None) -> str:
    """Return `1,200`, or a dash."""
    return ABSENT if value is None else f"{value:,.0f}"


def moment(time: datetime) -> str:
    """Return a time in UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def title(metric: str) -> str:
    """Return the heading of a metric."""
    return TITLES.get(metric, metric.replace("_", " "))


def column(name: str) -> str:
    """Return the heading of a metric as Keras names it: `val_loss` is Validation loss."""
    of = "Validation" if name.startswith("val_") else "Training"
    return f"{of} {title(name.removeprefix('val_')).lower()}"


def shown(metric: str, value: Any) -> str:
    """Return a metric's value in its own form: shares in percent."""
    known = finite(value)
    return percent(known) if metric.startswith(("top_", *SHARES)) else decimal(known)


def better(metric: str) -> Callable[[Iterable[float]], float] | None:
    """Return what finds the best of a metric's values: max, min, or None where nobody knows."""
    name = metric.lower()
    if name in SHARES[:2] or any(word in name for word in HIGHER):
        return max
    return min if any(word in name for word in LOWER) else None


def results(measured: Measured) -> str:
    """Return all that an evaluation found."""
    return ", ".join(f"{title(n).lower()} {shown(n, v)}" for n, v in measured.results.items())


def so_far(run: Run) -> str:
    """Say which value of the validation was the best, of what the job monitors if it does."""
    for name in (*run.job.monitors, "val_top_1", "val_loss"):
        metric = name.removeprefix("val_")
        known = [value for value in run.history.get(name, ()) if value is not None]
        if known and (best := better(metric)):
            return f"Its best {column(name).lower()} so far is {shown(metric, best(known))}."
    return ""


def cost(attempts: Sequence[Attempt]) -> str:
    """Say how many steps had to be repeated. A death after the last heartbeat may hide some."""
    steps = sum(one.lost_steps or 0 for one in attempts)
    vague = any(one.vague for one in attempts)
    least = "at least " if vague else ""
    return f", which cost {least}{count(steps, 'step')}" if steps or not vague else ""


def spending(spent: Seconds) -> str:
    """Say what machine time went into: `40m steps, 3m05s saving`."""
    shown = [cause for cause in CAUSES if cause != "queue" and spent.get(cause, 0) >= SHOWN]
    return ", ".join(f"{duration(spent[cause])} {CAUSES[cause]}" for cause in shown) or "nothing"


def spent(seconds: Seconds, cost: Mapping[str, float] | None) -> str:
    """Say how much of the training's machine time became kept steps, and what it cost."""
    share = goodput.goodput(seconds)
    if share is None:
        return "What its time went into was not recorded."
    text = (
        f"Goodput {percent(share)}: of {duration(goodput.training_seconds(seconds))} of machine"
        f" time in training, {duration(seconds.get('steps', 0.0))} became steps that were kept."
    )
    if waited := duration(seconds.get("queue", 0.0)).removeprefix("0s"):
        text += f" {waited} of waiting in the queue are not in it."
    if cost:
        text += (
            f" The machines cost {money(cost['paid'])}, of which {money(cost['lost'])} was lost."
        )
    return text


def money(amount: float | None) -> str:
    """Return an amount of whatever currency the price has, or a dash."""
    return ABSENT if amount is None else f"{amount:,.2f}"


def lost_steps(one: Attempt) -> str:
    """Say how many steps of an attempt had to be repeated."""
    if one.lost_steps is None:
        return "not known" if one.stage is Stage.TRAIN else ABSENT
    if one.vague:  # what it did after its last heartbeat, nobody knows
        return f"at least {one.lost_steps:,}" if one.lost_steps else "none known"
    return f"{one.lost_steps:,}"


def curve(metric: str, training: Values, validation: Values, marks: Sequence[Attempt]) -> str:
    """Describe a curve's beginning, end and best value."""
    parts = [
        f"{name} {text}"
        for name, values in (("training", training), ("validation", validation))
        if (text := _course(metric, values))
    ]
    cut = f"; interrupted at {', '.join(f'epoch {mark.saved_epoch:.4g}' for mark in marks[:MARKS])}"
    words = "; ".join(parts) or "no finite value"
    return f"{title(metric)} by epoch: {words}{cut if marks else ''}."


def _course(metric: str, values: Values) -> str:
    known = [(value, epoch) for epoch, value in enumerate(values, 1) if value is not None]
    if len(known) < 2:
        return "".join(f"{shown(metric, v)} after {count(e, 'epoch')}" for v, e in known)
    said = (
        f"from {shown(metric, known[0][0])} to {shown(metric, known[-1][0])} in"
        f" {count(len(values), 'epoch')}"
    )
    if best := better(metric):
        value = best(value for value, _ in known)
        said += f", best {shown(metric, value)} at epoch {dict(reversed(known))[value]}"
    return said


def class_name(names: Sequence[str], index: int) -> str:
    """Return a class's name; `class 7` where it has none, or has a number for one."""
    name = names[index] if index < len(names) else str(index)
    return f"class {name}" if name.isdecimal() else name


def mistakes(
    counts: Counts, names: Sequence[str], noun: str, most: int = MISTAKES
) -> Sequence[Mistake]:
    """Return the mistakes made most often, in either direction by itself.

    As true class, class it was taken for, and a sentence: `oak_tree is taken for maple_tree in 31
    of 100 images`.
    """
    wrong = counts - np.diag(np.diagonal(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        (
            int(true),
            int(taken_for),
            f"{class_name(names, true)} is taken for {class_name(names, taken_for)} in"
            f" {wrong[true, taken_for]:,} of {count(counts[true].sum(), noun)}",
        )
        for true, taken_for in places
        if wrong[true, taken_for]
    ]


def worst(counts: Counts, names: Sequence[str], noun: str, most: int = WORST) -> Sequence[Mistake]:
    """Return the classes that are recognised least, the worst first; perfect ones are not bad."""
    totals, right = counts.sum(axis=1), np.diagonal(counts)
    wrong = counts - np.diag(right)
    order = np.argsort(right / np.maximum(totals, 1), kind="stable")
    return [
        (
            int(index),
            None,
            f"{class_name(names, index)}: {right[index]:,} of {count(totals[index], noun)}"
            f" recognised, most often taken for {class_name(names, wrong[index].argmax())}"
            f" ({wrong[index].max():,})",
        )
        for index in order
        if right[index] < totals[index]
    ][:most]


def calibration(measured: Measured) -> str:
    """Say whether the network is as sure as it is right."""
    bins = measured.reliability
    images = [one["count"] for one in bins]
    sure = float(np.average([one["confidence"] for one in bins], weights=images))
    right = float(np.average([one["accuracy"] for one in bins], weights=images))
    verdict = "about as sure as it is right"
    if abs(sure - right) >= 0.02:
        verdict = "too sure of itself" if sure > right else "less sure than it could be"
    return (
        f"On average it is {percent(sure)} sure and {percent(right)} right: {verdict}. Expected"
        f" calibration error {percent(measured.number('expected_calibration_error'))}."
    )


def best(runs: Sequence[Run]) -> str:
    """Say which run recognises most, where there are two to compare."""
    scored = sorted(
        (-value, run.job.id)
        for run in runs
        if run.measured and (value := run.measured.number("top_1")) is not None
    )
    if len(scored) < 2:
        return ""
    (value, name), (other, second) = scored[:2]
    if value == other:
        more = sum(one == value for one, _ in scored) - 2
        names = f"{name}, {second} and {more} more" if more else f"{name} and {second}"
        return f"{names} recognise most: each {percent(-value)} of the test {runs[0].noun}s."
    digits = next(d for d in range(1, 20) if percent(-value, d) != percent(-other, d))
    return (
        f"{name} recognises most: {percent(-value, digits)} of the test {runs[0].noun}s, before"
        f" {second} with {percent(-other, digits)}."
    )
