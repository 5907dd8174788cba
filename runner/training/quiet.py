"""Keras and its backend, imported without the lines that TensorFlow's C++ side prints.

They come before any log level counts, and would bury what the user has to read.
"""

import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from runner.errors import SpecError

KNOWN = ("tensorflow", "jax")
_OWN_PROGRAM = "/proc/self/exe"
_NOISE = re.compile(
    rb"WARNING: All log messages before absl::Init|[IWE]\d{4} \d\d:|[IWE]0000 "
    rb"|To enable the following instructions"
)
#: TensorFlow counts the tracings of a line of code, across networks: each job traces Keras's anew
_OTHER_NETWORKS = re.compile(
    r"TensorFlowTrainer\.make_\w+_function.* triggered tf\.function retracing"
)
_lock = threading.Lock()


def check_backend() -> None:
    """Refuse what `import_keras` would, without importing anything: before a job is claimed.

    Raises:
        SpecError: the backend is not installed, or is none that runner knows.
    """
    name = os.environ.get("KERAS_BACKEND") or _configured() or KNOWN[0]
    if name not in KNOWN:
        msg = (
            f"Keras's backend is {name} here (by KERAS_BACKEND or its keras.json), and runner"
            f" trains with {' and '.join(KNOWN)}. No job was touched: set KERAS_BACKEND to one of"
            " them, or work on another machine."
        )
        raise SpecError(msg)
    missing = [module for module in (name, "keras") if importlib.util.find_spec(module) is None]
    if missing:
        msg = (
            f"{' and '.join(missing)} is not installed here. No job was touched: install it,"
            " choose another backend with KERAS_BACKEND, or work on another machine."
        )
        raise SpecError(msg)
    if name == "tensorflow" and sys.platform == "linux" and not os.path.lexists(_OWN_PROGRAM):
        msg = (
            f"TensorFlow aborts where {_OWN_PROGRAM} is missing. No job was touched: mount /proc,"
            " or work on another machine."
        )
        raise SpecError(msg)


def _configured() -> str | None:
    """Return the backend in Keras's configuration file, if there is one that can be read."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path raises where there is no home
    folder = os.environ.get("KERAS_HOME") or str(
        Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras"  # noqa: S108 - as Keras
    )
    try:
        return str(json.loads((Path(folder) / "keras.json").read_text())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def import_keras() -> None:
    """Import Keras with its backend; what is printed and is no noise comes out afterwards.

    Users who want to see all of it set TF_CPP_MIN_LOG_LEVEL to 0.

    Raises:
        SpecError: it can't be imported here, or the backend is none that runner knows.
    """
    logging.getLogger("tensorflow").addFilter(_is_of_one_network)
    with _lock:
        level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # a card's memory as it is needed, not all of it at once: others may work on it too
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        with nullcontext() if "keras" in sys.modules or level in ("0", "1") else _filtered():
            _load()


def _is_of_one_network(record: logging.LogRecord) -> bool:
    return _OTHER_NETWORKS.search(str(record.msg)) is None


def _load() -> None:
    try:
        import keras  # noqa: F401 - to have it loaded, and its backend with it

        from runner.training import backends

        backends.current()
    except SpecError:
        raise
    except Exception as error:  # a broken package raises anything
        msg = (
            f"Keras or its backend can't be imported here: {type(error).__name__}: {error}. No job"
            " was touched: fix the installation, choose another backend with KERAS_BACKEND, or"
            " work on another machine."
        )
        raise SpecError(msg) from error


@contextmanager
def _filtered() -> Iterator[None]:
    """Hold back what is written to standard error, and write it afterwards without the noise."""
    try:
        real = os.dup(2)
    except OSError:  # no standard error to be filtered
        yield
        return
    stderr = sys.stderr
    with tempfile.TemporaryFile() as written, os.fdopen(real, "w") as direct:
        sys.stderr = direct  # Python's own lines are written at once: "leaving at once"
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            direct.flush()
            os.dup2(real, 2)
            sys.stderr = stderr
            _hand_over(direct, stderr)
            written.seek(0)
            for line in written:
                if not _NOISE.match(line):
                    os.write(2, line)


def _hand_over(direct: TextIO, stderr: TextIO) -> None:
    """Let the loggers that were made meanwhile write to the lasting standard error."""
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):
            handler = getattr(handler, "python_handler", handler)  # of absl's
            if isinstance(handler, logging.StreamHandler) and handler.stream is direct:
                handler.setStream(stderr)
