"""The validation within a fit: a stop within it saves the state from before it."""

from typing import TYPE_CHECKING

from runner.training import backends, private
from runner.training.logs import Logs
from runner.training.parts import Parts
from runner.training.saving import Saving

if TYPE_CHECKING:
    from runner.checkpoint.ledger import Snapshot


class Validation:
    """Our part in the hooks of a fit's validation.

    Args:
        parts: what the training consists of.
        saving: of that training.
    """

    def __init__(self, parts: Parts, saving: Saving) -> None:
        self._parts = parts
        self._saving = saving
        self._before: Snapshot | None = None
        self._is_plain = False  # no code of the program's gives its data

    def begin(self) -> None:
        """Hold the state of now."""
        self._parts.shorten(self._parts.model.test_function)
        self._before = self._saving.hold()

    def begin_step(self) -> None:
        """Trace the function as the first batch comes, as Keras does it."""
        if self._parts.model.run_eagerly:
            return
        if not self._parts.tracing.run("test", self._trace):
            self._parts.tracing.begin("test", draws=self._is_plain)

    def _trace(self) -> bool:
        data = private.epoch_iterator_above()
        self._is_plain = private.is_plain(data)
        return backends.current().trace(self._parts.model.test_function, data)

    def end_step(self, batch: int, logs: Logs) -> None:
        """Stop if that was asked for."""
        self._saving.after_validation_step(self._before)
        self._saving.report("validate", logs, validation_steps=batch + 1)

    def end(self) -> None:
        """Let go of the state before it."""
        self._before = None
