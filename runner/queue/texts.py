"""Numbers, times and metrics as people read them. What makes no sense reads as nothing."""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from runner.queue.job import Job, Json, line
from runner.queue.record import SIZES

SHOWN = 4  #: metrics in a line


def finite(value: Any) -> Any:
    """Return a number that can be shown; None for all else that a bucket may hold.

    >>> finite(0.5), finite(float("nan")), finite(True), finite("1"), finite(10**400)
    (0.5, None, None, None, None)
    """
    try:
        known = type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        known = False
    return value if known else None


def count(number: int, word: str, plural: str = "") -> str:
    """Return `1 attempt`, `2 attempts`, `1,200 classes`."""
    return f"{number:,} {word if number == 1 else plural or f'{word}s'}"


def duration(seconds: float | None) -> str:
    """Return `42s`, `3m05s`, `12m`, `2h05m`, `3d04h`, or nothing where it isn't known."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 100:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s" if whole < 600 else f"{whole // 60}m"
    hours = whole // 3600
    return (
        f"{hours}h{whole % 3600 // 60:02d}m" if hours < 72 else f"{hours // 24}d{hours % 24:02d}h"
    )


def ago(delta: timedelta | float | None) -> str:
    """Return `3m05s ago`; nothing where it isn't known."""
    seconds = delta.total_seconds() if isinstance(delta, timedelta) else delta
    return "" if seconds is None else f"{duration(max(0.0, seconds))} ago"


def decimal(value: float) -> str:
    """Return `0.5000`; `1.2e-05` where four digits would say nothing, `3` of a whole number."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"


def metric_texts(metrics: Mapping[str, Any], monitors: Sequence[str]) -> list[str]:
    """Return a few metrics: those that the spec monitors, the loss, the next, their validation."""
    bases = [name for name in metrics if not name.startswith("val_") and name != "learning_rate"]
    bases = sorted(bases, key=lambda name: name != "loss")[:2]
    first = [*monitors, *map(_base, monitors), *bases, *(f"val_{name}" for name in bases)]
    return _texts(metrics, first)


def result_texts(job: Job) -> list[str]:
    """Return a few results of a job's evaluation; nothing where there are none."""
    results = job.results or {}
    found = {name: value for name, value in results.items() if name not in SIZES}
    if says_nothing("top_5", results):
        found.pop("top_5", None)
    return _texts(found, [*map(_base, job.monitors), "top_1"])


def says_nothing(name: str, results: Mapping[str, Any]) -> bool:
    """Whether a result is the same whatever was trained: five guesses at no more classes."""
    return name == "top_5" and 0 < (finite(results.get("classes")) or 0) <= 5


def _base(name: str) -> str:
    return name.removeprefix("val_")


def _texts(metrics: Mapping[str, Any], first: Sequence[str]) -> list[str]:
    known = {line(name): finite(metrics.get(name)) for name in (*first, *metrics)}
    return [f"{name} {decimal(v)}" for name, v in known.items() if v is not None][:SHOWN]


def differences(one: Json, other: Json) -> dict[str, tuple[object, object]]:
    """Return what two specs say of each field in which they differ, by its path.

    >>> differences({"a": {}, "b": 1}, {"a": {"x": 2}, "b": 1})
    {'a.x': (None, 2)}
    """
    first, second = dict(_leaves(one)), dict(_leaves(other))
    names = sorted({*first, *second})
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    whole = {name for name in names if any(more.startswith(f"{name}.") for more in names)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in whole}


def _leaves(value: object, path: str = "") -> list[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        return [
            leaf
            for name, inner in value.items()
            for leaf in _leaves(inner, f"{path}.{name}" if path else str(name))
        ]
    return [(path, value)]


def shown_differences(stored: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """Return in what a spec differs from the one that is stored, for a sentence."""
    found = differences(stored, spec)
    shown = [f"{name} is {there!r:.60}, not {here!r:.60}" for name, (there, here) in found.items()]
    return "; ".join(shown[:8]) + (f"; and {len(shown) - 8} more" if len(shown) > 8 else "")
