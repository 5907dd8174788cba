"""Numbers that the environment sets."""

import os
from collections.abc import Mapping

from runner.errors import SpecError


def seconds(name: str, environ: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds that a variable holds; None where it is not set.

    Raises:
        SpecError: it holds no number of seconds, or one of more than a day.
    """
    text = environ.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 86400:
        raise SpecError(f"{name} received {text!r}; expected seconds from 1 to 86400")
    return value
