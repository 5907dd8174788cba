"""Standard output for results alone, and imports without what TensorFlow's C++ side prints.

Its lines come before any log level counts, and would bury what the user has to read.
"""

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import IO, Any, TextIO, cast

_NOISE = re.compile(
    rb"WARNING: All log messages before absl::Init|[IWE]\d{4} \d\d:|[IWE]0000 "
    rb"|To enable the following instructions"
)
#: TensorFlow counts the tracings of a line of code, across networks: each job traces Keras's anew
_OTHER_NETWORKS = re.compile(
    r"TensorFlowTrainer\._?make_\w*function.* triggered tf\.function retracing"
)
_lock = threading.RLock()
SLOW_SECONDS = 10.0


@contextmanager
def importing() -> Iterator[None]:
    """Import Keras within this; what is printed and is no noise comes out afterwards.

    Users who want to see all of it set TF_CPP_MIN_LOG_LEVEL to 0.
    """
    from absl import logging as of_keras  # it must make its logger itself

    logging.getLogger("tensorflow").addFilter(_is_of_one_network)
    of_keras.get_absl_logger().addFilter(_is_no_profiler)
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # a card's memory as it is needed, not all of it at once: others may work on it too
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with _lock:
        if "keras" in sys.modules or level in ("0", "1"):
            yield
            return
        with _filtered():
            yield


class Lasting:
    """Standard error, which may be closed while the work goes on."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:  # noqa: D102
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:  # noqa: D102
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def aside() -> Iterator[None]:
    """Send to standard error what the user's code prints within this: it is no result of ours."""
    with redirect_stdout(cast(TextIO, Lasting(sys.stderr))):
        yield


@contextmanager
def told_if_slow(
    say: Callable[[str], None], text: str, seconds: float | None = None
) -> Iterator[None]:
    """Say the text once if what is done within this takes so many seconds, 10 by default."""
    timer = threading.Timer(SLOW_SECONDS if seconds is None else seconds, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_of_one_network(record: logging.LogRecord) -> bool:
    return _OTHER_NETWORKS.search(str(record.msg)) is None


def _is_no_profiler(record: logging.LogRecord) -> bool:
    """Grain tells who has no JAX that it can't be profiled by it."""
    return "jax profiler" not in str(record.msg)


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
