"""What a record's fields may hold. A bucket may hold anything: wrong types never surprise.

Each function makes one that takes its field out of a record, or raises TypeError, ValueError,
KeyError or OverflowError.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Json = Mapping[str, Any]


def a(name: str, kind: type, default: Any = ...) -> Any:
    """A value of exactly this type."""

    def take(record: Json) -> Any:
        value = record[name] if default is ... else record.get(name, default)
        if type(value) is not kind:
            raise TypeError(f"{name} is a {type(value).__name__}, not a {kind.__name__}")
        return value

    return take


def count(name: str) -> Any:
    """A number from 0 on; absent: 0."""

    def take(record: Json) -> int:
        value = record.get(name, 0)
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise TypeError(f"{name} is {str(value)[:40]}, not a count")
        return value

    return take


def maybe(name: str) -> Any:
    """An object or nothing."""

    def take(record: Json) -> Json | None:
        value = record.get(name)
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"{name} is a {type(value).__name__}, not an object")
        return value

    return take


def reference(value: Any) -> Json:
    """Return a checkpoint's reference if its fields, where given, are what readers expect."""
    if not isinstance(value, dict):
        raise TypeError(f"a checkpoint is a {type(value).__name__}, not an object")
    for name, kind in (("step", int), ("manifest", str), ("digest", str)):
        if name in value and type(value[name]) is not kind:
            raise TypeError(f"a checkpoint's {name} is {str(value[name])[:40]}")
    return value


def references(record: Json) -> tuple[Json, ...]:
    """The references of the checkpoints that are kept."""
    return tuple(reference(value) for value in many("checkpoints", dict)(record))


def maybe_reference(name: str) -> Any:
    """A checkpoint's reference or nothing."""

    def take(record: Json) -> Json | None:
        value = record.get(name)
        return None if value is None else reference(value)

    return take


def line(text: str) -> str:
    """Return a text from the bucket as one line that is safe to print."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text.strip()


def many(name: str, kind: type) -> Any:
    """A list of values of this type; absent: empty."""

    def take(record: Json) -> tuple[Any, ...]:
        values = record.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise TypeError(f"{name} is not a list of {kind.__name__}")
        return tuple(values)

    return take


def time(name: str) -> Any:
    """A point in time, in UTC."""

    def take(record: Json) -> datetime:
        return datetime.fromisoformat(record[name]).astimezone(UTC)

    return take


def seconds(name: str) -> Any:
    """A duration above 0; absent: a minute."""

    def take(record: Json) -> float:
        value = record.get(name, 60.0)
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise TypeError(f"{name} is {str(value)[:40]}, not a time in seconds")
        return float(value)

    return take


def metrics(record: Json) -> Json | None:
    """For people alone: what is no number is left empty, and spoils no record."""
    found = maybe("metrics")(record)
    return found and {line(name): number(value) for name, value in found.items()}


def number(value: object) -> float | None:
    """The value as a number; None for anything else."""
    try:
        return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]
    except OverflowError:
        return None


def amount(name: str) -> Any:
    """A number from 0 on that need not be whole; absent: 0."""

    def take(record: Json) -> float:
        value = record.get(name, 0.0)
        if type(value) not in (int, float) or not 0 <= value < 1e12:
            raise TypeError(f"{name} is {str(value)[:40]}, not an amount")
        return float(value)

    return take


def whole(name: str) -> Any:
    """A whole number of either sign."""

    def take(record: Json) -> int:
        value = record[name]
        if type(value) is not int or not -(1 << 31) < value < 1 << 31:
            raise TypeError(f"{name} is {str(value)[:40]}, not a number")
        return value

    return take


def text(name: str) -> Any:
    """A line that is safe to print."""
    take_text = a(name, str)

    def take(record: Json) -> str:
        return line(take_text(record))

    return take


def names(name: str) -> Any:
    """A list of short lines."""
    take_all = many(name, str)

    def take(record: Json) -> tuple[str, ...]:
        return tuple(line(value[:100]) for value in take_all(record))

    return take


def requirements(record: Json) -> Json | None:
    """What a machine must have: unknown ones are kept, so that nobody takes them for met."""
    found: Json | None = maybe("requirements")(record)
    if found is None:
        return None
    memory, labels = found.get("gpu_memory_gb"), found.get("labels", [])
    if memory is not None and number(memory) is None:
        raise TypeError(f"requirements.gpu_memory_gb is {str(memory)[:40]}, not a number")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise TypeError("requirements.labels is not a list of str")
    return found


def budget(record: Json) -> Json | None:
    """Hours that a job may take, by what they are hours of."""
    found = maybe("budget")(record)
    return found and {
        line(name): hours
        for name, value in found.items()
        if (hours := number(value)) is not None and hours > 0
    }


def failure(record: Json) -> Json | None:
    """For people alone: how an attempt failed."""
    found = maybe("failure")(record)
    return found and {
        name: line(value) if isinstance(value, str) else value
        for name, value in found.items()
        if type(value) in (str, int)
    }
