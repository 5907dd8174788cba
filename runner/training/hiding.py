"""Steps that were done before the kill are passed over, and fit does not notice.

fit calls `model.train_function` for them as for any step and is given the saved logs; nothing is
computed, no batch is taken. The function is exchanged on the model, so it looks who calls it: a fit
that was stopped in the middle leaves no model behind that never trains again.
"""

from collections.abc import Callable
from typing import Any


class HiddenSteps:
    """The train executions of an epoch that are still to be passed over.

    Args:
        model: in training.
        count: train executions.
        logs: what the last of them returned.
        is_calling: whether our fit calls the exchanged function.
        stop: whether the training is to stop after them.
    """

    def __init__(
        self, model: Any, count: int, logs: Any, *, is_calling: Callable[[], bool], stop: bool
    ) -> None:
        self._model = model
        self._real: Any = model.train_function
        self._logs = logs
        self._is_calling = is_calling
        self._stop = stop
        self.left = count
        if count:
            model.train_function = self._function

    def _function(self, *state: Any) -> Any:
        if not self._is_calling():  # but a later fit
            self.end()
            return self._real(*state)
        return self._logs if len(state) == 1 else (self._logs, state[0])

    def pass_one(self) -> None:
        """One of them is over."""
        self.left -= 1
        if self.left == 0:
            self.end()
            if self._stop:
                self._model.stop_training = True

    def end(self) -> None:
        """Let the model train again."""
        self.left = 0
        if self._model.train_function == self._function:
            self._model.train_function = self._real
