"""Keras and its backend, imported where they can be, with a clear word where they can't."""

import atexit
import gc
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from runner.errors import SpecError
from runner.machine.memory import give_back_freed
from runner.quiet import importing

KNOWN = ("tensorflow", "jax")
_OWN_PROGRAM = "/proc/self/exe"


def check_backend() -> None:
    """Refuse what `import_keras` would, without importing anything: before a job is claimed.

    Raises:
        SpecError: the backend is not installed, or is none that runner knows.
    """
    name = os.environ.get("KERAS_BACKEND") or configured().get("backend") or KNOWN[0]
    if name not in KNOWN:
        raise SpecError(
            f"Keras's backend is {name} here (by KERAS_BACKEND or its keras.json), and runner"
            f" trains with {' and '.join(KNOWN)}. No job was touched: set KERAS_BACKEND to one of"
            " them, or work on another machine."
        )
    missing = [module for module in (name, "keras") if importlib.util.find_spec(module) is None]
    if missing:
        raise SpecError(
            f"{' and '.join(missing)} is not installed here. No job was touched: install it,"
            " choose another backend with KERAS_BACKEND, or work on another machine."
        )
    if name == "tensorflow" and sys.platform == "linux" and not os.path.lexists(_OWN_PROGRAM):
        raise SpecError(
            f"TensorFlow aborts where {_OWN_PROGRAM} is missing. No job was touched: mount /proc,"
            " or work on another machine."
        )


def configured() -> dict[str, Any]:
    """Return what Keras's configuration file says, if there is one that can be read."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path raises where there is no home
    folder = os.environ.get("KERAS_HOME") or str(
        Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras"  # noqa: S108 - as Keras
    )
    try:
        return dict(json.loads((Path(folder) / "keras.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def import_keras() -> None:
    """Import Keras with its backend; what is printed and is no noise comes out afterwards.

    Raises:
        SpecError: it can't be imported here, or the backend is none that runner knows.
    """
    give_back_freed()
    with importing():
        _load()
    # at its end Python looks through all that TensorFlow made: 5 s of a machine's last 30
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def _load() -> None:
    try:
        import keras  # noqa: F401 - to have it loaded, and its backend with it

        from runner.training import backends

        backends.current()
    except SpecError:
        raise
    except Exception as error:  # a broken package raises anything
        raise SpecError(
            f"Keras or its backend can't be imported here: {type(error).__name__}: {error}. No job"
            " was touched: fix the installation, choose another backend with KERAS_BACKEND, or"
            " work on another machine."
        ) from error
