"""What TensorFlow and JAX do differently, behind one seam: nothing else asks which one it is.

Keras has chosen its backend (`KERAS_BACKEND`) before anything here runs. Each backend is one
module with the functions of `Backend`; only the chosen one is imported, so that neither
library need be installed for the other.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import keras

from runner.checkpoint.plain import Array
from runner.errors import SpecError

Kind = tuple[str, tuple[int, ...]]  #: dtype and shape


class Reader(Protocol):
    """Reads a fixed set of variables, again and again."""

    def read(self) -> list[Any]:
        """Return the current values, which stay as they are while the training goes on."""


class Backend(Protocol):
    """What a training needs of the library beneath Keras."""

    def begin_anew(self) -> None:
        """Undo what an earlier program of this process has set."""

    def fix(self, *, threads: int | None, deterministic: bool) -> int:
        """Fix what decides over bits, before anything has run; the threads in use."""

    def fingerprint(self, model: Any) -> dict[str, Any]:
        """Return what of this backend decides over bits."""

    def accelerators(self) -> tuple[str, ...]:
        """Return the names of the GPUs that it can use."""

    def devices(self) -> tuple[Any, ...]:
        """Return what one model can be trained on: the GPUs, or what stands for them on the CPU."""

    def distributed(self, count: int) -> AbstractContextManager[Any]:
        """Let what is built next, within the context, be trained on the first `count` devices."""

    def replicas(self, model: Any) -> int:
        """Return how many devices a model is trained on."""

    def scope(self, model: Any) -> AbstractContextManager[Any]:
        """Let what is made within the context belong to the devices of this model."""

    def parts(self, variable: Any) -> list[tuple[str, Any]]:
        """Return what holds a variable's values, with a suffix where that is one part a replica."""

    def is_variable(self, value: Any) -> bool:
        """Whether an object is a variable whose numbers can be saved."""

    def kind(self, part: Any) -> Kind:
        """Return a part's dtype and shape."""

    def reader(self, model: Any, parts: Sequence[Any]) -> Reader:
        """Return what reads these parts of the model that is in training."""

    def assign(self, values: Sequence[tuple[Any, Array]]) -> None:
        """Set parts to arrays."""

    def prepare(self, model: Any, fit: Any, run: Callable[[Callable[[], bool]], bool]) -> bool:
        """Create all state that the running fit will have, before its first step.

        Args:
            model: in training.
            fit: the running one.
            run: calls what it is given, which traces the step, and returns what that returns.

        Returns:
            False where some of the state comes only with the first step.
        """

    def trace(self, function: Any, dataset: Callable[[], Any]) -> bool:
        """Trace a step function for this pipeline, without running it; False where it can't be."""

    def captured(self, model: Any) -> list[tuple[str, Any]]:
        """Return names and variables that the traced step works with."""

    def random_state(self) -> Any:
        """Return where the library's own generator for code outside of steps stands, or None."""

    def set_random_state(self, state: Any) -> None:
        """Let it go on from there."""

    def step_once(self, model: Any, fit: Any) -> bool:
        """Run a step that doesn't count, for the state that comes with it; whether it has run."""

    def replace_data(self, model: Any, fit: Any, adapter: Any) -> None:
        """Let the running fit take its batches from another adapter, from the next epoch on."""

    def replace_dataset(self, model: Any, fit: Any, dataset: Any) -> None:
        """Let the running fit begin its next iterator on this tf.data pipeline."""

    def look_through(self, model: Any, reader: Any, warn: Callable[[str], None]) -> None:
        """Say what the step, now that it was run once, remembers and no checkpoint holds."""

    def missing(self) -> list[str]:
        """Return what this version of Keras and the library lacks of what is used."""


def name() -> str:
    """Return Keras's word for the backend in use."""
    return str(keras.config.backend())


def current() -> Backend:
    """Return the backend in use.

    Raises:
        SpecError: Keras runs on one that runner doesn't know.
    """
    match name():
        case "tensorflow":
            from runner.training.backends import tensorflow

            return cast(Backend, tensorflow)
        case "jax":
            from runner.training.backends import jax

            return cast(Backend, jax)
        case other:
            raise SpecError(f"KERAS_BACKEND is {other}; runner trains with tensorflow and jax.")
