"""The logs of fit as plain numbers: for checkpoints, and for people."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from runner.checkpoint.plain import NotPlainError, encode_leaf

Logs = Mapping[str, Any] | None


def finite(value: Any) -> float | None:
    """Return a metric's value for people's JSON: None where it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def numbers(logs: Logs) -> dict[str, float]:
    """Logs as plain numbers, nested ones flattened, as fit hands them to callbacks."""
    found: dict[str, float] = {}
    for key, value in (logs or {}).items():
        if isinstance(value, Mapping):
            found.update(numbers(value))
        else:
            try:
                found[key] = float(value)
            except (TypeError, ValueError):
                continue
    return found


def plain_logs(logs: Logs) -> Any:
    """Return logs as JSON; what is neither number nor plain is left out."""
    kept: dict[str, Any] = {}
    for key, value in (logs or {}).items():
        try:
            kept[key] = encode_leaf(_plain(value), "")
        except (NotPlainError, TypeError):
            continue
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    return float(value)
