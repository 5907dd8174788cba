"""What a training consists of: all that its steps work with exists before the first of them.

Models may build themselves late, and callbacks may exchange a part in mid-training. So the parts
are looked for again now and then, and what a later process would not have is named.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from runner.checkpoint.manifest import PYTHON
from runner.checkpoint.reading import Restored
from runner.training import backends
from runner.training.changes import Structure
from runner.training.state import reach
from runner.training.state.attributes import Attributes
from runner.training.state.variables import MORE, Variables
from runner.training.tracing import Tracing

WALK_SHARE = 1000.0  #: looks for what is new take less than a thousandth of the time


class Parts:
    """The variables, traced functions and attributes of one fit.

    Args:
        model: in training.
        fit: the running one.
        roots: names and objects from which variables are looked for, besides the model.
        ours: objects that belong to no training.
        warn: called with what no checkpoint can hold.
    """

    def __init__(
        self,
        model: Any,
        fit: Any,
        *,
        roots: Sequence[reach.Found],
        ours: Sequence[Any],
        warn: Callable[[str], None],
    ) -> None:
        self.model = model
        self._fit = fit
        self._roots = roots
        self._ours = ours
        self._warn = warn
        self.tracing = Tracing()
        self.late = False  #: some of the state comes only with the first step
        self.exchanged: list[str] = []  #: by a callback: no checkpoint can hold it
        self._walked_at = self._walk_seconds = 0.0
        self._seeded = False
        self.variables: Variables
        self.attributes: Attributes
        self._structure: Structure

    def prepare(self, restored: Restored | None, source: Any) -> None:
        """Let everything exist that a step works with, before any of it is restored or saved."""
        model, backend = self.model, backends.current()
        if restored is not None:
            self._seeded = any(name.startswith("random/") for name in restored.tensors)
            self.tracing = Tracing(restored.python.get("tracing"), restored.python.get("baked"))
        reset = {id(variable) for variable in model.metrics_variables}
        self.tracing.attributes = Attributes(reach.parts(model), set(), self._warn)
        self.late = not backend.prepare(model, self._fit, self._trace)
        # fit does not reset metrics in its first epoch that its first step builds
        self._kept_metrics = [
            (variable, keras.ops.convert_to_numpy(variable))
            for variable in model.metrics_variables
            if id(variable) not in reset
        ]
        self.variables = self._found()
        self.tracing.attributes = Attributes(self.variables.parts, set(), self._warn)
        if self.late and restored is not None and self.variables.lacks(self.state_of(restored)):
            source.seek(self._fit.initial_epoch, 0)
            self.tracing.run("train", lambda: backend.step_once(model, self._fit))
            self.find()

    def begin(self, covered: set[tuple[int, str]]) -> None:
        """Remember what there is; `covered` is what of it the callbacks' state holds."""
        self._structure = Structure(self.model)
        self.attributes = Attributes(self.variables.parts, covered, self._warn)

    def reset_metrics(self) -> None:
        """Set metrics to what they were before the first step was traced."""
        for variable, value in self._kept_metrics:
            variable.assign(value)

    def _trace(self, trace: Callable[[], bool]) -> bool:
        return self.tracing.run("train", trace)

    def trace_again(self) -> None:
        """Trace the first step anew if callbacks have set what is baked into its graph."""
        attributes = self.tracing.attributes
        if attributes is None or not attributes.capture() or not self.tracing.forget("train"):
            return
        self.model.make_train_function(force=True)
        self._structure = Structure(self.model)
        backends.current().prepare(self.model, self._fit, self._trace)

    def state_of(self, restored: Restored) -> dict[str, Any]:
        """Return a checkpoint's variables, by the names that they have here."""
        state = {k: v for k, v in restored.tensors.items() if not k.startswith(PYTHON)}
        return self.variables.named(state)

    def find(self) -> None:
        """Look for variables again; those that are the same keep their reader."""
        found = self._found()
        self.variables = self.variables if found.is_same(self.variables) else found

    def _found(self) -> Variables:
        started = time.monotonic()
        found = Variables(
            self.model,
            roots=self._roots,
            captured=backends.current().captured(self.model),
            ours=self._ours,
            seeded=self._seeded,
        )
        self._walked_at = time.monotonic()
        self._walk_seconds = self._walked_at - started
        return found

    def look_through(self) -> None:
        """Name what the traced step remembers and no checkpoint holds."""
        backends.current().look_through(self.model, self.variables.reader, self._warn)

    def look(self) -> list[str]:
        """Return what a callback has exchanged; now and then, name what is new."""
        if self.exchanged:
            return self.exchanged
        self.exchanged = self._structure.changes(self.model)
        since = time.monotonic() - self._walked_at
        if not self.exchanged and (
            not self.variables.complete or since > WALK_SHARE * self._walk_seconds
        ):
            self.look_for_new()
        return self.exchanged

    def look_for_new(self) -> None:
        """Name what is new, and what changes but is in no checkpoint."""
        known = set(self.variables.names)
        self.find()
        for name in self.variables.names:
            if name not in known and name.startswith(MORE):
                self._warn(
                    f"{name.removeprefix(MORE)} was made in mid-training: a resumed program "
                    "does not have it and can't give it its state back. Make it before fit."
                )
        self.attributes.look()

    def release(self) -> None:
        """Hold nothing any more."""
        self.tracing.end(traced=False)
        self.variables = self.attributes = None  # type: ignore[assignment]
