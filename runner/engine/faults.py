"""What kind of fault ended an attempt: what its user mends, and whether trying again may help.

TensorFlow's and JAX's errors are told by the names of their classes, since neither may be
imported here. What the kernel kills for lack of memory says nothing at all; its control group
counts it, and whoever takes the job over on the same machine compares.
"""

import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from runner import code
from runner.errors import CheckpointError, DivergedError, SpecError, TrainingError
from runner.queue.job import Failure

_MEMORY = {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError", "OutOfMemory"}
_MEMORY_WORDS = ("RESOURCE_EXHAUSTED", "out of memory", "OOM when allocating")
_TRACE_BYTES = 64 * 1024

#: what errors of ours are; the first that fits
_OF_ERRORS = (
    (DivergedError, Failure.DIVERGED),
    (SpecError, Failure.SPEC),
    (TrainingError, Failure.TRAINING),
    (CheckpointError, Failure.CHECKPOINT),
)
#: the same again would end the same
FINAL = frozenset({Failure.SPEC, Failure.TRAINING, Failure.DIVERGED})


def kind_of(error: BaseException) -> Failure:
    """Return what kind of fault an exception is.

    >>> kind_of(MemoryError()), kind_of(KeyError("x"))
    (<Failure.OUT_OF_MEMORY: 'out_of_memory'>, <Failure.CRASH: 'crash'>)
    """
    other = Failure.OUT_OF_MEMORY if _is_about_memory(error) else Failure.CRASH
    return next((kind for of, kind in _OF_ERRORS if isinstance(error, of)), other)


def _is_about_memory(error: BaseException) -> bool:
    if any(kind.__name__ in _MEMORY for kind in type(error).__mro__):
        return True
    # JAX has one class for all that XLA says
    if type(error).__name__ not in ("XlaRuntimeError", "JaxRuntimeError", "InternalError"):
        return False
    text = str(error)[:2000]
    return any(words in text for words in _MEMORY_WORDS)


def trace_of(error: BaseException) -> bytes:
    """Return the traceback, its end where it is long."""
    return code.traceback_of(error).encode(errors="replace")[-_TRACE_BYTES:]


def stacks() -> str:
    """Return where every thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines = "".join(traceback.format_stack(frame))
            parts.append(f"thread {names.get(ident, ident)}:\n{lines}")
    return "\n".join(parts)


def was_killed_for_memory(owner: Mapping[str, Any] | None, kills: int | None) -> bool:
    """Whether the kernel killed for memory in our group since a gone owner of it began."""
    before = (owner or {}).get("oom_kills")
    return type(before) is int and kills is not None and kills > before
