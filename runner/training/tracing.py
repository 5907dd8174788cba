"""Steps are traced from the same random states in every process.

What a layer draws from Python's or NumPy's generators while its step is traced is baked into the
graph: another constant in each process, unless the tracing begins where it began in the first one.
So the generators' states before a tracing that drew from them travel in the checkpoints; after a
resume the step is traced from them, and the generators are put back. The same holds for the rate
of a layer that a callback changes later, in vain: the graph keeps what it was traced with.
"""

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.errors import CheckpointError

if TYPE_CHECKING:
    from runner.training.state.attributes import Attributes


class Tracing:
    """The tracing of the functions of one fit.

    Args:
        saved: what `to_json` returned before the kill, if this is a resume.
        baked: by function, what was set on Keras's objects when it was traced.
    """

    def __init__(
        self, saved: Mapping[str, Any] | None = None, baked: Mapping[str, Any] | None = None
    ) -> None:
        self.baked: dict[str, Any] = dict(baked or {})
        self.attributes: Attributes | None = None  #: of all that a step works with
        self._exchanged: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._unlike = any(self.baked.values())  # what is set may be other than what was baked
        #: by function: the generators' states before it was traced; None where it drew nothing
        self._before: dict[str, Any] = dict(saved or {})
        self._begun: tuple[str, Any] | None = None
        self._ahead: set[str] = set()  # functions that this process has traced before their steps

    def to_json(self) -> dict[str, Any]:
        """Return what a resume has to know."""
        return dict(self._before)

    def run(self, name: str, trace: Callable[[], bool]) -> bool:
        """Trace a function for all its steps, from where it was traced first; whether it could."""
        if name in self._ahead:
            return True
        self.begin(name, draws=True)
        try:
            if trace():
                self._ahead.add(name)
        finally:
            self.end(traced=name in self._ahead)
        return name in self._ahead

    def forget(self, name: str) -> bool:
        """Let a function be traced again; False if it was not traced before its steps."""
        if name not in self._ahead:
            return False
        self._ahead.discard(name)
        self._before.pop(name, None)
        self.baked.pop(name, None)
        return True

    def resume(self, attributes: Mapping[str, Any]) -> None:
        """Take note of what a checkpoint has set: functions may be traced with other values."""
        self._unlike = any(baked != attributes for baked in self.baked.values())

    def look(self) -> None:
        """Take note of what callbacks have set since: functions may yet be traced, on JAX."""
        if self.attributes is not None and self.baked.keys() - self._ahead and not self._unlike:
            self.resume(self.attributes.capture())

    def begin(self, name: str, *, draws: bool) -> None:
        """Set all as it was at its first tracing, for a step that may trace its function.

        JAX traces a function anew for each shape of its arguments, and once more for what its own
        first call returned: all from the same states.

        Args:
            name: of the function.
            draws: nothing else draws from the generators meanwhile, so they may be set.
        """
        if name in self._ahead:
            return
        if self.attributes is not None and (self._unlike or name not in self.baked):
            now = self.attributes.capture()
            self._exchanged = now, self.baked.setdefault(name, now)
            self.attributes.exchange(*self._exchanged)
        if draws and self._before.get(name, ...) is not None:
            self._begun = name, generators()
            if name in self._before:
                set_generators(self._before[name])

    def end(self, *, traced: bool = True) -> None:
        """Remember where it began if it is the first, else put everything back."""
        if self.attributes is not None and self._exchanged is not None:
            (now, then), self._exchanged = self._exchanged, None
            self.attributes.exchange(then, now)
        if self._begun is None:
            return
        (name, before), self._begun = self._begun, None
        if name in self._before:
            set_generators(before)
        elif traced:
            self._before[name] = before if generators() != before else None


def generators() -> dict[str, Any]:
    """Return the states of Python's and NumPy's global generators, as JSON."""
    version, state, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "random": [version, list(state), gauss],
        "numpy": [kind, [int(key) for key in keys], position, has_gauss, cached],
    }


def set_generators(saved: Mapping[str, Any]) -> None:
    """Set Python's and NumPy's global generators.

    Raises:
        CheckpointError: these are no states of theirs.
    """
    try:
        version, state, gauss = saved["random"]
        random.setstate((version, tuple(state), gauss))
        np.random.set_state(tuple(saved["numpy"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the state of a random generator can't be read: {error}") from error
