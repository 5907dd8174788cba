"""One training under our care: what is done at each of its hooks, and in which order.

A training that is resumed within an epoch runs that epoch from its first step, but the steps
already done are hidden: `fit` is given the saved logs, the data begins at the first new step,
no callback is called, nothing is computed. So step numbers, epoch logs and the validation
afterwards are those of an undisturbed epoch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import keras

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.manifest import Position, Reference
from runner.checkpoint.reading import Restored
from runner.errors import TrainingError
from runner.queue.goodput import FIRST
from runner.training import backends, frames, private
from runner.training.capture import Capture, saved_logs
from runner.training.data import python
from runner.training.data.passes import Source
from runner.training.data.sources import stateful
from runner.training.fit import Hooks, first_epoch, has_ended, is_beyond
from runner.training.hiding import HiddenSteps
from runner.training.logs import Logs
from runner.training.parts import Parts
from runner.training.saving import Saving
from runner.training.settings import Settings
from runner.training.shortcuts import Shortcuts
from runner.training.state import reach
from runner.training.state.observers import Observers

if TYPE_CHECKING:
    from runner.checkpoint.ledger import Snapshot


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a training works with, once fit has begun."""

    source: Source
    checkpointer: Checkpointer
    restored: Restored | None
    variables: dict[str, Any] = field(default_factory=dict)  #: those that decide over its data


class Loop(keras.callbacks.CallbackList):  # type: ignore[misc]
    """The hooks of one training; each calls the other callbacks where it sees fit.

    A job gives it to fit as its list of callbacks. In somebody else's fit its hooks stand in for
    those of that fit's own list.

    Args:
        hooks: of the other callbacks.
        model: to be trained.
        fit: the running one; None if it is to be found in the frames above.
        settings: see there.
        open_training: is given the fit when it begins, and gives what the training works with;
            None if this fit is to be passed over.
    """

    def __init__(
        self,
        hooks: Hooks,
        model: Any,
        fit: Any,
        settings: Settings,
        open_training: Callable[[Any], Opened | None],
    ) -> None:
        super().__init__(model=model)
        self._hooks = hooks
        self._fit = fit
        self._settings = settings
        self._open = open_training
        self._shortcuts = Shortcuts()
        self._parts: Parts
        self.begun = False  #: and not passed over
        self.capture: Capture
        self.saving: Saving
        self.final: Reference | None = None  #: the state after on_train_end, committed
        self._fresh = True  # no step can be resumed yet
        self._restored: Restored | None = None  # until it is applied
        self._finished: Restored | None = None  # a restored state in which no epoch is left
        self._hidden: HiddenSteps | None = None
        self._epoch_base = 0  # global step at the epoch's beginning
        self._before_validation: Snapshot | None = None

    @property
    def _position(self) -> Position:
        return self.saving.position

    def _stopped(self) -> bool:
        return bool(self._model.stop_training)

    # ------------------------------------------------------------------ the whole training

    def on_train_begin(self, logs: Logs = None) -> None:
        """Let the others begin, then let everything exist that a step works with."""
        private.self_test(backends.current().missing())
        hooks, model, settings = self._hooks, self._model, self._settings
        fit = self._fit
        if fit is None:
            fit = self._fit = frames.fit_in_progress(self)
            hooks.callbacks.params["steps"] = fit.steps
        # as the program gave them
        data = stateful(fit)
        extra = [*reach.program_parts(model), *data.items()]
        observers = Observers(hooks.others, warn=settings.warn, extra=extra)
        hooks.call("on_train_begin", logs)
        observers.begin({name: python.names_in_hooks(type(one)) for name, one in data.items()})
        opened = self._open(fit)
        if opened is None:
            return
        restored, source = opened.restored, opened.source
        others = [(type(other).__name__, other) for other in hooks.others]
        self._parts = parts = Parts(
            model,
            self._fit,
            roots=[*others, *opened.variables.items()],
            ours=[hooks.ours, hooks.callbacks, self],
            warn=settings.warn,
        )
        parts.prepare(restored, source)
        if settings.recorder is not None:
            settings.recorder.begin(model, self._fit, hooks.others)
        self.capture = Capture(hooks, parts, observers, source, settings, self._fit)
        parts.begin(observers.covered())
        position = replace(settings.start, epoch=self._fit.initial_epoch)
        notes: list[str] = []
        if restored is not None:
            position, notes = self.capture.begin(restored)
        self.saving = Saving(
            opened.checkpointer, parts, self.capture, settings, self._fit, position
        )
        self.begun = True
        for note in notes:
            self.saving.note(note)
        if restored is not None:
            self._resume(restored)
        self.saving.report("train", None, force=True)

    def _resume(self, restored: Restored) -> None:
        """Go on from a checkpoint; restore at once if no epoch is left."""
        self._fresh = False
        position = self._position
        self._fit.begin_at(first_epoch(position, self._fit.epochs))
        if not has_ended(position, self._fit.epochs):
            self._restored = restored
            done = f", after {position.step} of its steps" if position.step else ""
            self._settings.inform(f"resuming with epoch {position.epoch + 1}{done}")
            return
        self.capture.apply(restored, position)
        self._model.stop_training = position.stop
        self._finished = restored
        at = f"at step {position.global_step}"
        if not is_beyond(position, self._fit.epochs):
            self._settings.inform(f"this training has ended already, {at}")
            return
        self._settings.warn(
            f"the checkpoint is after epoch {position.epoch}, {at}, and fit is to train "
            f"{self._fit.epochs}: nothing is left to do, and the checkpoint stays."
        )

    def on_train_end(self, logs: Logs = None) -> None:
        """Let the others end, then save what they made of the state."""
        finished, self._finished = self._finished, None
        beyond = False
        if finished is not None:
            logs, beyond = saved_logs(finished), is_beyond(finished.position, self._fit.epochs)
        self._hooks.call("on_train_end", logs)
        if self._settings.discard is not None:
            if not beyond:
                self._settings.discard()
        elif finished is not None and (beyond or finished.position.moment == "final"):
            self.capture.apply(finished, self._position)  # whatever the others did again
            self.final = finished.reference
        elif self.saving.exchanged():
            self.final = None
        elif self._position.global_step or finished is not None:
            self.saving.position = replace(
                self._position, step=0, moment="final", stop=self._stopped()
            )
            self.saving.logs = logs
            self.capture.record(self.saving.position)
            self._settings.host.spent.on("save")  # and the fit's end, which is no step
            self.final = self.saving.save_last()

    def release(self) -> None:
        """Hold nothing any more, and let model and fit be as they were."""
        if self._fit is not None:
            self._fit.begin_at(None)
        self._shortcuts.undo()
        if self._hidden is not None:
            self._hidden.end()
        if self.begun:
            self._parts.release()
            self.capture.release()

    # ------------------------------------------------------------------ an epoch

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Restore what is to be restored, at the very point where it was saved."""
        self._fit.begin_at(None)  # fit has read it
        restored, self._restored = self._restored, None
        if self._finished is not None:
            raise TrainingError(f"epoch {epoch} begins, although the training had ended.")
        self._shortcuts.take(self._model.train_function)
        step = self._position.step if restored is not None else 0
        if restored is not None:
            self._settings.host.spent.on("restore")  # until the place in the data is found
        if restored is not None and step == 0:
            self.capture.apply(restored, self._position)
            self._model.reset_metrics()  # an epoch's end holds the validation's metrics
        self.capture.source.seek(epoch, step)
        self.saving.position = replace(self._position, epoch=epoch, step=step, stop=False)
        self._epoch_base = self._position.global_step - step
        if self._fresh:
            self._parts.reset_metrics()
            # Written while the first step runs; waited for at that step's end.
            self.saving.position = replace(self._position, moment="start")
            self.capture.record(self._position)
            self.saving.save()
        self._hooks.call("on_epoch_begin", epoch, logs)
        if restored is not None and step > 0:
            self.capture.apply(restored, self._position)
            self._hide(restored)
        self._parts.tracing.look()

    def _hide(self, restored: Restored) -> None:
        step, together = self._position.step, self._model.steps_per_execution
        if step % together and step != self._fit.steps:
            raise TrainingError(
                f"the checkpoint is after step {step} of an epoch, which is no multiple "
                f"of steps_per_execution={together}. Continue with one that divides it."
            )
        self.saving.logs = saved_logs(restored)
        self._hidden = HiddenSteps(
            self._model,
            -(-step // together),
            self.saving.logs,
            is_calling=self._fit.is_calling,
            stop=restored.position.stop,
        )

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Save what is due, and the best epoch for sure."""
        self._hooks.call("on_epoch_end", epoch, logs)
        self.capture.epoch_times.append(round(time.time(), 3))
        self.saving.position = replace(
            self._position, epoch=epoch + 1, step=0, moment="epoch", stop=self._stopped()
        )
        self.saving.logs = logs
        best = self._settings.best
        improved = best is not None and best.improved(epoch, logs or {}, self._settings.warn)
        self.saving.after_step(epoch_end=True, best=improved)
        self.saving.report("train", logs, force=True)

    # ------------------------------------------------------------------ a step

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Pass on, unless the step is hidden."""
        if self._hidden is not None and self._hidden.left:
            return
        self._hooks.call("on_train_batch_begin", batch, logs)
        if self._position.global_step == 0:
            self._parts.trace_again()
            self._shortcuts.take(self._model.train_function)
        if not self._model.run_eagerly:  # data of code may draw as well
            self._parts.tracing.begin("train", draws=self.capture.source.mid_epoch)
        if not self.saving.first_ended_at:
            self._settings.host.spent.on(FIRST)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Count the step, and save what is due."""
        if self._hidden is not None and self._hidden.left:
            self._hidden.pass_one()
            return
        self._parts.tracing.end()
        if self._fresh:
            self._fresh = False
            # nobody sees the end of a step of a training that can't be resumed
            with self._settings.host.spent.during("save"):
                self.saving.checkpointer.wait()
        self._hooks.call("on_train_batch_end", batch, logs)
        self.saving.logs = logs
        steps = self._fit.steps
        done = min(batch + 1, steps) if steps else batch + 1
        self.saving.position = replace(
            self._position,
            step=done,
            global_step=self._epoch_base + done,
            moment="batch",
            stop=self._stopped(),
        )
        first = not self.saving.first_ended_at
        if first:
            self._settings.host.spent.on("build")
            self._settings.on_first_step()
            self.saving.first_ended_at = time.monotonic()
            if self._parts.late:
                self._parts.find()
            if not self.saving.exchanged():
                self._parts.look_through()
            self._settings.host.spent.on("steps")
        self.saving.after_step()
        self.saving.report("train", logs, force=first)  # from now on there is something to save

    # ------------------------------------------------------------------ validation

    def on_test_begin(self, logs: Logs = None) -> None:
        """Hold the state before the validation: a stop within it saves that."""
        self._shortcuts.take(self._model.test_function)
        if not self.saving.first_ended_at:  # resumed at an epoch's end
            self._settings.host.spent.on("steps")
        self._before_validation = self.saving.hold()
        self._hooks.call("on_test_begin", logs)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Trace the validation's function as its first batch comes, as Keras does it."""
        self._hooks.call("on_test_batch_begin", batch, logs)
        if not self._model.run_eagerly and not self._parts.tracing.run("test", self._trace_test):
            self._parts.tracing.begin("test", draws=self._fit.validation_is_plain())

    def _trace_test(self) -> bool:
        return backends.current().trace(self._model.test_function, self._fit.validation_dataset)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Stop at once if asked to; the validation is repeated after the resume."""
        self._parts.tracing.end()
        self._hooks.call("on_test_batch_end", batch, logs)
        self.saving.after_validation_step(self._before_validation)
        self.saving.report("validate", logs, validation_steps=batch + 1)

    def on_test_end(self, logs: Logs = None) -> None:
        """Hold the state before the validation no longer."""
        self._before_validation = None
        self._hooks.call("on_test_end", logs)
