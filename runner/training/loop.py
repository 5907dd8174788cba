"""The running `fit`, taken over: our work comes after all other callbacks', in every hook.

A callback in the list runs before the History that fit adds and sees one epoch less. So the
list's own hooks are replaced, for this fit, by those of `Loop`: each calls the original (all
other callbacks) and then does our part. A checkpoint therefore holds the others' final state.

A training that is resumed within an epoch runs that epoch from its first step, but the steps
already done are hidden: `fit` is given the saved logs, the data begins at the first new step,
no callback is called, nothing is computed. So step numbers, epoch logs and the validation
afterwards are those of an undisturbed epoch.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from runner.checkpoint.checkpointer import Checkpointer, Snapshot
from runner.checkpoint.manifest import PYTHON, Position, Reference
from runner.checkpoint.plain import NotPlainError, decode, encode
from runner.checkpoint.policy import Every, Since, fits
from runner.checkpoint.reading import Restored
from runner.errors import PreemptedError, StoreError, StoreRefusedError, TrainingError
from runner.training import backends, numerics, private, reach
from runner.training.attributes import Attributes
from runner.training.best import Best
from runner.training.hiding import HiddenSteps
from runner.training.observers import Observers
from runner.training.program import RATE, Structure, description, keeps_rate, place
from runner.training.program import differences as program_differences
from runner.training.progress import OnProgress, Progress
from runner.training.shortcuts import Shortcuts
from runner.training.sources import Source, check_validation, source_of
from runner.training.state import MORE, Variables
from runner.training.trace import Recorder
from runner.training.tracing import Tracing
from runner.training.urgency import NoHurry, Urgency

logger = logging.getLogger(__name__)

HOOKS = (
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_test_end",
)
Logs = Mapping[str, Any] | None
#: of the time that a checkpoint is written in the background, what steps take longer by (measured
#: on two cores; a machine with more of them loses less)
WRITER_SHARE = 0.25
WALK_SHARE = 1000.0  #: looks for what is new take less than a thousandth of the time
PAUSE_SECONDS = 0.5  #: between two looks whether the bucket is back
PROGRESS_SECONDS = 0.5  #: between two looks at the metrics: each look waits for the device


@dataclass(kw_only=True)
class Settings:
    """What a training's checkpoints are to be like."""

    every: Every
    best: Best | None = None
    start: Position = field(
        default_factory=Position
    )  #: where a fresh fit stands, in a training of several
    history: Mapping[str, list[Any]] = field(default_factory=dict)  #: of the fits before this one
    epoch_times: Sequence[float] = ()  #: theirs: when each epoch ended, seconds since 1970
    should_stop: Callable[[], str | None] = lambda: None  #: asked after each step: why, or None
    urgency: Urgency = field(default_factory=NoHurry)  #: how much time there is for saving
    on_progress: OnProgress | None = None
    warn: Callable[[str], None] = logger.warning
    tell: Callable[[str], None] = logger.info  #: people, where a fit goes on
    number: int = 0  #: of this program's fits with this folder, how many have ended before
    waits: bool = False  #: for a bucket that is away when the training has ended
    discard: Callable[[], None] | None = None  #: removes all at the end, instead of saving it
    release: Callable[[], None] = lambda: None  #: the fit is over, however it ended
    recorder: Recorder | None = None  #: writes down each step, under `runner drill -- PROGRAM`


class Loop:
    """One fit under our care.

    Args:
        callbacks: the list that fit works with.
        ours: the callback in it that is not anybody's state.
        open_checkpoints: gives the checkpointer and what it restored, once fit has begun.
        settings: see there.
    """

    def __init__(
        self,
        callbacks: Any,
        ours: Any,
        open_checkpoints: Callable[[], tuple[Checkpointer, Restored | None]],
        settings: Settings,
    ) -> None:
        self._callbacks = callbacks
        self._open = open_checkpoints
        self._settings = settings
        self._originals = {name: getattr(callbacks, name) for name in HOOKS}
        for name in HOOKS:
            setattr(callbacks, name, self._guarded(getattr(self, name)))
        self._ours = ours
        self.model: Any = None
        self.final: Reference | None = None
        self.blocked_seconds: list[float] = []  #: what each checkpoint kept the training waiting
        self._restored: Restored | None = None  # until it is applied
        self._finished: Restored | None = None  # a restored state in which no epoch is left
        self._hidden: HiddenSteps | None = None
        self._stop_after_hidden = False
        self._passed_over = False  # nothing is trained or saved: a later fit has the checkpoint
        self._late = False  # some of the state comes only with the first step
        self._changed: list[str] = []  # what a callback has exchanged: no checkpoint can hold it
        self._audits = 2  # checkpoints at which to look for what is in none
        self._variables: Any = None
        self._walk_seconds = 0.0  # what looking for variables took
        self._walked_at = 0.0
        self._shortcuts = Shortcuts()
        self._tracing = Tracing()
        self._logs: Any = None  # of the last step, for a hidden one
        self._fresh = True
        self._begun = False  # else the list is that of an `evaluate`
        self._wanted = False  # a checkpoint was asked for
        self._looked = False  # through the traced step
        self._first_ended_at = 0.0
        self._before_validation: Snapshot | None = None
        self._position = Position()
        self._epoch_base = 0  # global step at the epoch's beginning
        self._saved = Position()
        self._saved_at = time.monotonic()
        self._notes: list[str] = []
        self._history_before: dict[str, list[Any]] = dict(settings.history)
        self.epoch_times: list[float] = list(settings.epoch_times)  #: when each ended, for people
        self._progress_at = 0.0
        self._validation_steps = 0
        self._test_is_plain = False  # no code of the program's gives the validation data

    # ------------------------------------------------------------------ the whole training

    def on_train_begin(self, logs: Logs = None) -> None:
        """Prepare everything; restore at once if no epoch is left."""
        private.self_test()
        fit = private.fit_in_progress(self._callbacks)
        self.model = self._callbacks.model
        self._others = [c for c in self._callbacks.callbacks if c is not self._ours]
        self._observers = Observers(  # as the program gave them
            self._others, warn=self._settings.warn, extra=reach.program_parts(self.model)
        )
        self._originals["on_train_begin"](logs)
        self._observers.begin()
        self._fit = fit
        self._begun = True
        self._source: Source = source_of(self.model, fit, warn=self._settings.warn)
        read = check_validation(fit, warn=self._settings.warn)
        self._data_variables = {"data": self._source.variables(), "validation data": read}
        self._history = next(
            (c for c in self._others if isinstance(c, keras.callbacks.History)),
            keras.callbacks.History(),
        )
        self._checkpointer, self._restored = self._open()
        if self._restored is not None and self._belongs_to_a_later_fit(self._restored):
            return
        self._prepare()
        if self._settings.recorder is not None:
            self._settings.recorder.begin(self.model, fit, self._others)
        self._numerics = {**numerics.fingerprint(self.model), **self._source.fingerprint()}
        self._program = description(self.model, fit, self._source)
        self._structure = Structure(self.model)
        self._attributes = Attributes(
            self._variables.parts, self._observers.covered(), self._settings.warn
        )
        self._position = replace(self._settings.start, epoch=fit.initial_epoch)
        if self._restored is not None:
            self._begin_resumed(self._restored)
        self._saved, self._saved_at = self._position, time.monotonic()
        self._progress("train", None, force=True)

    def _prepare(self) -> None:
        """Let everything exist that a step works with, before any of it is restored or saved."""
        backend = backends.current()
        restored = self._restored
        saved = restored.python if restored else {}
        self._tracing = Tracing(saved.get("tracing"), saved.get("baked"))
        reset = {id(variable) for variable in self.model.metrics_variables}
        self._tracing.attributes = Attributes(reach.parts(self.model), set(), self._settings.warn)
        self._late = not backend.prepare(
            self.model, self._fit, lambda trace: self._tracing.run("train", trace)
        )
        # fit does not reset metrics in its first epoch that its first step builds
        self._kept_metrics = [
            (variable, keras.ops.convert_to_numpy(variable))
            for variable in self.model.metrics_variables
            if id(variable) not in reset
        ]
        self._find_variables()
        self._tracing.attributes = Attributes(self._variables.parts, set(), self._settings.warn)
        if self._late and restored is not None and self._variables.lacks(self._state(restored)):
            self._source.seek(self._fit.initial_epoch, 0)
            self._tracing.run("train", lambda: backend.step_once(self.model, self._fit))
            self._find_variables()

    def _trace_again(self) -> None:
        """Trace the first step anew if callbacks have set what is baked into its graph."""
        attributes = self._tracing.attributes
        if attributes is None or not attributes.capture() or not self._tracing.forget("train"):
            return
        self.model.make_train_function(force=True)
        self._shortcuts.take(self.model.train_function)
        self._structure = Structure(self.model)
        backend = backends.current()
        backend.prepare(self.model, self._fit, lambda trace: self._tracing.run("train", trace))

    def _belongs_to_a_later_fit(self, restored: Restored) -> bool:
        """Pass over a fit that had ended before the kill: several use one folder in turn."""
        number = int(restored.python.get("fit", 0))
        if number > self._settings.number:
            self._passed_over = True
            private.set_first_epoch(self.model, max(self._fit.epochs, 1))
            self._settings.warn(
                f"this fit is passed over: the checkpoint is of this program's fit {number + 1} "
                f"with this folder, and this is fit {self._settings.number + 1}. The model stays "
                "as it is until then. Give each fit a backup folder of its own."
            )
        return self._passed_over

    def _find_variables(self) -> None:
        started, restored = time.monotonic(), self._restored
        found = Variables(
            self.model,
            roots=[*((type(c).__name__, c) for c in self._others), *self._data_variables.items()],
            captured=backends.current().captured(self.model),
            ours=[self._ours, self._callbacks],
            seeded=restored is not None and any(n.startswith("random/") for n in restored.tensors),
        )
        if self._variables is None or not found.is_same(self._variables):
            self._variables = found
        self._walked_at = time.monotonic()
        self._walk_seconds = self._walked_at - started

    def _state(self, restored: Restored) -> dict[str, Any]:
        """Return a checkpoint's variables, by the names that they have here."""
        state = {k: v for k, v in restored.tensors.items() if not k.startswith(PYTHON)}
        found: dict[str, Any] = self._variables.named(state)
        return found

    def _begin_resumed(self, restored: Restored) -> None:
        self._variables.check(self._state(restored), self._settings.warn)
        self._source.from_json(restored.python.get("source"))
        self._fresh = False
        position, said = place(
            restored.position, restored.python.get("program") or {}, self._program
        )
        self._position = position
        self._say_changes(restored)
        if said:
            self._note(said)
        ended = position.stop and position.step == 0
        if ended or position.epoch >= self._fit.epochs:
            self._apply(restored)
            self.model.stop_training = position.stop
            self._finished = restored
            private.set_first_epoch(self.model, max(self._fit.epochs, 1))
            self._settings.tell(f"this training has ended already, at step {position.global_step}")
            if position.epoch > self._fit.epochs:
                self._settings.warn(
                    f"the checkpoint is after epoch {position.epoch}, and fit is to train "
                    f"{self._fit.epochs}: nothing is left to do, and the checkpoint stays."
                )
        else:
            private.set_first_epoch(self.model, position.epoch)
            done = f", after {position.step} of its steps" if position.step else ""
            self._settings.tell(f"going on with epoch {position.epoch + 1}{done}")

    def _say_changes(self, restored: Restored) -> None:
        changed = numerics.differences(restored.numerics, self._numerics)
        if changed:
            self._note(f"continued on different numerics: {'; '.join(changed)}")
        saved = restored.python.get("program") or {}
        others = program_differences(saved, self._program)
        if RATE in saved and not self._keeps_rate(restored):
            others = [text for text in others if not text.startswith(RATE)]
        if others:
            self._note(f"continued with another program: {'; '.join(others)}")

    def _note(self, text: str) -> None:
        """Say it, now and in the record of the next checkpoint."""
        self._notes.append(text)
        self._settings.warn(text)

    def on_train_end(self, logs: Logs = None) -> None:
        """Let the others end, then save what they made of the state."""
        private.set_first_epoch(self.model, None)
        finished, self._finished = self._finished, None
        if finished is not None:
            logs = self._saved_logs(finished)
        self._originals["on_train_end"](logs)
        if self._passed_over:
            pass
        elif self._settings.discard is not None:
            if finished is None or finished.position.epoch <= self._fit.epochs:
                self._settings.discard()
        elif finished is not None and finished.position.moment == "final":
            self._apply(finished)  # whatever the others did again, this is how it ended
            self.final = finished.reference
        elif self._find_changes():
            self.final = None
        elif self._position.global_step or finished is not None:
            self._position = replace(self._position, step=0, moment="final", stop=self._stopped())
            self._record()
            self._save_last(logs)
            self.final = self._checkpointer.last_committed
        self._release()

    def _save_last(self, logs: Logs) -> None:
        """Commit the final state, however long the bucket is away: nothing else is left to do."""
        while True:
            try:
                return self._save(logs, wait=True)
            except StoreRefusedError:
                raise
            except StoreError as error:
                if not self._settings.waits or self._settings.should_stop():
                    raise
                self._settings.warn(f"the training has ended, its last state is unsaved: {error}")
                time.sleep(PAUSE_SECONDS)

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        """Let everything be as it was if fit is left by an exception."""

        def call(*args: Any, **kwargs: Any) -> None:
            try:
                hook(*args, **kwargs)
            except BaseException:
                self._release()
                raise

        return call

    def _release(self) -> None:
        for name, original in self._originals.items():
            setattr(self._callbacks, name, original)
        self._shortcuts.undo()
        self._tracing.end(traced=False)
        if self._hidden is not None:
            self._hidden.end()
        if self.model is not None:
            private.set_first_epoch(self.model, None)
        self._observers = None  # type: ignore[assignment]
        self._variables = None
        self._settings.release()

    def _stopped(self) -> bool:
        return bool(self.model.stop_training)

    @property
    def position(self) -> Position:
        """Where the training stands."""
        return self._position

    # ------------------------------------------------------------------ an epoch

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Restore what is to be restored, at the very point where it was saved."""
        private.set_first_epoch(self.model, None)  # fit has read it
        restored, self._restored = self._restored, None
        if self._finished is not None:
            raise TrainingError(f"epoch {epoch} begins, although the training had ended.")
        self._shortcuts.take(self.model.train_function)
        step = self._position.step if restored is not None else 0
        if restored is not None and step == 0:
            self._apply(restored)
            self.model.reset_metrics()  # an epoch's end holds the validation's metrics
        self._source.seek(epoch, step)
        self._position = replace(self._position, epoch=epoch, step=step, stop=False)
        self._epoch_base = self._position.global_step - step
        if self._fresh:
            for variable, value in self._kept_metrics:
                variable.assign(value)
            # Written while the first step runs; waited for at that step's end.
            self._position = replace(self._position, moment="start")
            self._record()
            self._save(None)
        self._originals["on_epoch_begin"](epoch, logs)
        if restored is not None and step > 0:
            self._apply(restored)
            self._hide(restored)

    def _hide(self, restored: Restored) -> None:
        position = self._position
        together = self.model.steps_per_execution
        if position.step % together and position.step != self._fit.steps:
            raise TrainingError(
                f"the checkpoint is after step {position.step} of an epoch, which is no multiple "
                f"of steps_per_execution={together}. Continue with one that divides it."
            )
        self._stop_after_hidden = restored.position.stop
        self._logs = self._saved_logs(restored)
        count = -(-position.step // together)
        self._hidden = HiddenSteps(self.model, self._callbacks, count, self._logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Save what is due, and the best epoch for sure."""
        self._originals["on_epoch_end"](epoch, logs)
        self.epoch_times.append(round(time.time(), 3))
        self._position = replace(
            self._position,
            epoch=epoch + 1,
            step=0,
            moment="epoch",
            stop=self._stopped(),
        )
        best = self._settings.best
        improved = best is not None and best.improved(epoch, logs or {}, self._settings.warn)
        self._after_step(logs, epoch_end=True, best=improved)
        self._progress("train", logs, force=True)

    # ------------------------------------------------------------------ a step

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Pass on, unless the step is hidden."""
        if self._is_hidden:
            return
        self._originals["on_train_batch_begin"](batch, logs)
        if self._position.global_step == 0:
            self._trace_again()
        if not self.model.run_eagerly:  # data of code may draw as well
            self._tracing.begin("train", draws=self._source.mid_epoch)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Count the step, and save what is due."""
        if self._is_hidden:
            self._pass_hidden()
            return
        self._tracing.end()
        self._originals["on_train_batch_end"](batch, logs)
        self._logs = logs
        steps = self._fit.steps
        done = min(batch + 1, steps) if steps else batch + 1
        self._position = replace(
            self._position,
            step=done,
            global_step=self._epoch_base + done,
            moment="batch",
            stop=self._stopped(),
        )
        if self._fresh:
            self._fresh = False
            self._checkpointer.wait()  # nobody has seen a step of a training that can't be resumed
        first = not self._looked
        if first:
            self._looked = True
            self._first_ended_at = time.monotonic()
            if self._late:
                self._find_variables()
            if not self._find_changes():
                reader, warn = self._variables.reader, self._settings.warn
                backends.current().look_through(self.model, reader, warn)
        self._after_step(logs)
        self._progress("train", logs, force=first)  # from now on there is something to save

    @property
    def _is_hidden(self) -> bool:
        return self._hidden is not None and self._hidden.left > 0

    def _pass_hidden(self) -> None:
        if self._hidden is not None:
            self._hidden.pass_one()
        if not self._is_hidden and self._stop_after_hidden:
            self.model.stop_training = True

    def _after_step(self, logs: Logs, *, epoch_end: bool = False, best: bool = False) -> None:
        self._record()
        self._checkpointer.check()
        vouched = (epoch_end or self._source.mid_epoch) and not self._find_changes()
        if vouched and self._checkpointer.overdue:
            self._pause(logs, best=best)
        reason = self._settings.should_stop()
        if reason:
            if not self._changed and self._fits():
                self._save(logs, best=best, wait=True)
            raise self._preempted(reason)
        due = self._checkpointer.behind or self._settings.every.due(self._since(epoch_end))
        self._wanted = self._settings.urgency.take_save_request() or self._wanted
        due = due or self._wanted
        if (best and not self._changed) or (vouched and due):
            self._save(logs, best=best)

    def _find_changes(self) -> list[str]:
        """Say once what a callback has exchanged: a fresh program could not take its state back."""
        if self._changed:
            return self._changed
        self._changed = self._structure.changes(self.model)
        if self._changed:
            saved = self._checkpointer.last_committed
            self._settings.warn(
                f"a callback has exchanged {', '.join(self._changed)} in mid-training. No later "
                "state can be saved, since the program does not build it: a resume goes back to "
                f"step {saved.step if saved else 0} and comes here again, exactly. Train in "
                "several fits, each with a backup folder of its own, to lose less."
            )
        elif (
            not self._variables.complete
            or time.monotonic() - self._walked_at > WALK_SHARE * self._walk_seconds
        ):
            known = set(self._variables.names)
            self._find_variables()
            for name in self._variables.names:
                if name not in known and name.startswith(MORE):
                    self._settings.warn(
                        f"{name.removeprefix(MORE)} was made in mid-training: a resumed program "
                        "does not have it and can't give it its state back. Make it before fit."
                    )
            self._attributes.look()
        return self._changed

    def _fits(self) -> bool:
        """Whether the newest state can be saved in the time left; else wait for what is begun."""
        left = self._settings.urgency.seconds_left
        expected = self._checkpointer.expected_seconds
        if fits(expected_seconds=expected, left_seconds=left):
            return True
        self._settings.warn(
            f"the newest state is not saved: that takes about {expected:.0f} s,"
            f" and {max(left or 0.0, 0.0):.0f} s are left"
        )
        with contextlib.suppress(StoreError):  # it is let go all the same
            self._checkpointer.wait(max(left or 0.0, 0.0))
        return False

    def _pause(self, logs: Logs, *, best: bool = False) -> None:
        """Wait for a bucket that is away or slow, so that no more work than agreed is at stake."""
        step = self._position.global_step
        self._settings.warn(f"paused at step {step}: {self._checkpointer.overdue}")
        while self._checkpointer.overdue and not self._settings.should_stop():
            if not self._checkpointer.busy:
                self._save(logs, best=best)
            time.sleep(PAUSE_SECONDS)
            self._checkpointer.check()
            self._progress("train", logs)
        self._settings.warn(f"going on at step {step}")

    def _since(self, epoch_end: bool) -> Since:
        return Since(
            steps=self._position.global_step - self._saved.global_step,
            epochs=self._position.epoch - self._saved.epoch,
            seconds=time.monotonic() - self._saved_at,
            epoch_end=epoch_end,
            cost_seconds=self._cost_seconds,
        )

    @property
    def _unsaved_seconds(self) -> float:
        """Seconds of training that would be repeated if the machine died now."""
        saved = self._checkpointer.last_committed
        if saved is None or saved.step == self._position.global_step:
            return 0.0
        # what came before the first step, importing and tracing, is no training that could be lost
        trained = time.monotonic() - self._first_ended_at
        return min(self._checkpointer.unsaved_seconds, trained)

    @property
    def _cost_seconds(self) -> float:
        """What the last checkpoint cost the training: its stall, and its writer's share."""
        blocked = self.blocked_seconds[-1] if self.blocked_seconds else 0.0
        return blocked + WRITER_SHARE * self._checkpointer.write_seconds

    def _preempted(self, reason: str) -> PreemptedError:
        saved = self._checkpointer.last_committed
        step = saved.step if saved else 0
        return PreemptedError(f"stopped ({reason}); saved at step {step}.")

    # ------------------------------------------------------------------ validation

    def on_test_begin(self, logs: Logs = None) -> None:
        """Hold the state before the validation: a stop within it saves that."""
        self._validation_steps = 0
        if self._begun:
            self._shortcuts.take(self.model.test_function)
            if self._source.mid_epoch and not self._find_changes():
                self._before_validation = self._snapshot(self._logs)
        self._originals["on_test_begin"](logs)

    def _trace_test(self) -> bool:
        data = private.epoch_iterator_above()
        self._test_is_plain = private.is_plain(data)
        return backends.current().trace(self.model.test_function, data)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Pass on; the function is traced as the first batch comes, as Keras does it."""
        self._originals["on_test_batch_begin"](batch, logs)
        if not self._begun or self.model.run_eagerly:
            return
        if not self._tracing.run("test", self._trace_test):
            self._tracing.begin("test", draws=self._test_is_plain)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Stop at once if asked to; the validation is repeated after the resume."""
        if self._begun:
            self._tracing.end()
        self._originals["on_test_batch_end"](batch, logs)
        if not self._begun:
            return
        self._validation_steps = batch + 1
        self._checkpointer.check()
        reason = self._settings.should_stop()
        if reason:
            if self._before_validation is not None and self._fits():
                left = self._settings.urgency.seconds_left
                self._checkpointer.save(self._before_validation, wait=True, seconds=left)
            raise self._preempted(reason)
        self._progress("validate", logs)

    def on_test_end(self, logs: Logs = None) -> None:
        """Let go of the state before the validation."""
        self._before_validation = None
        self._originals["on_test_end"](logs)

    # ------------------------------------------------------------------ saving and restoring

    def _save(self, logs: Logs, *, best: bool = False, wait: bool = False) -> None:
        if self._checkpointer.busy and not (best or wait):
            return  # it stays due, and is taken a step later
        started = time.perf_counter()
        snapshot = self._snapshot(logs)
        if self._looked and self._audits:  # the first two after the first step
            self._audits -= 1
            self._attributes.look()
        left = self._settings.urgency.seconds_left if wait else None
        taken = self._checkpointer.save(snapshot, best=best, wait=wait, seconds=left)
        if wait and not taken:  # what is committed too late must not count as the end of a fit
            raise self._preempted(self._settings.should_stop() or "no time left")
        if not wait:
            self.blocked_seconds.append(time.perf_counter() - started)
        if not taken:
            return
        self._saved, self._saved_at = self._position, time.monotonic()
        self._wanted = False
        self._notes = []

    def _snapshot(self, logs: Logs) -> Snapshot:
        private.flush(self._callbacks)  # the others' state is to be of this step
        tensors = self._variables.snapshot()
        python, arrays = self._observers.capture()
        python["logs"] = plain_logs(logs)
        python["source"] = self._source.to_json()
        python["fit"] = self._settings.number
        python["attributes"] = self._attributes.capture()
        python["baked"] = self._tracing.baked
        python["tracing"] = self._tracing.to_json()
        python["program"] = self._program
        python["best"] = self._settings.best.to_json() if self._settings.best else None
        python["history_before"] = dict(self._history_before)
        python["epoch_times"] = list(self.epoch_times)
        return Snapshot(
            tensors=[*tensors, *arrays],
            python=python,
            position=self._position,
            history=self.history(),
            numerics=self._numerics,
            notes=tuple(self._notes),
        )

    def history(self) -> dict[str, list[float | None]]:
        """Return every metric of every epoch, those of the fits before this one included."""
        here = {k: [finite(v) for v in vs] for k, vs in self._history.history.items()}
        names = dict.fromkeys([*self._history_before, *here])
        return {k: [*self._history_before.get(k, ()), *here.get(k, ())] for k in names}

    def _apply(self, restored: Restored) -> None:
        but = [self._rate_name] if self._keeps_rate(restored) else []
        self._variables.assign(self._state(restored), but=but)
        self._observers.restore(restored.python, restored.tensors)
        attributes = restored.python.get("attributes") or {}
        self._attributes.restore(attributes)
        self._tracing.resume(attributes)
        self._history_before = dict(restored.python.get("history_before") or {})
        self.epoch_times = list(restored.python.get("epoch_times") or [])
        if self._settings.best is not None:
            self._settings.best.from_json(restored.python.get("best"))
        self._record(restored=True)

    def _record(self, *, restored: bool = False) -> None:
        if self._settings.recorder is not None:
            snapshot = self._variables.snapshot()
            self._settings.recorder.record(self._position, snapshot, restored=restored)

    @property
    def _rate_name(self) -> str:
        names = [name for name in self._variables.names if name.startswith("optimizer/")]
        return next((name for name in names if name.endswith("/learning_rate")), "")

    def _keeps_rate(self, restored: Restored) -> bool:
        """Whether the program's learning rate counts: the training had left it as it was given."""
        saved = self._state(restored).get(self._rate_name)
        program = restored.python.get("program") or {}
        return saved is not None and keeps_rate(program, self._program, saved)

    def _saved_logs(self, restored: Restored) -> dict[str, Any]:
        logs: dict[str, Any] = decode(restored.python["logs"], restored.tensors.__getitem__)
        return logs

    # ------------------------------------------------------------------ for people

    def _progress(self, stage: str, logs: Logs, *, force: bool = False) -> None:
        tell = self._settings.on_progress
        now = time.monotonic()
        if tell is None or not (force or now - self._progress_at >= PROGRESS_SECONDS):
            return
        self._progress_at = now
        validating = stage == "validate"
        prefix = "val_" if validating else ""
        metrics = {f"{prefix}{k}": v for k, v in _numbers(logs).items()}
        tell(
            Progress(
                stage=stage,
                epoch=self._position.epoch,
                epochs=self._fit.epochs,
                step=self._validation_steps if validating else self._position.step,
                steps=0 if validating else self._fit.steps or 0,
                global_step=self._position.global_step,
                metrics=metrics,
                interval=self._settings.every.describe(self._cost_seconds),
                unsaved_seconds=self._unsaved_seconds,
            )
        )


def finite(value: Any) -> float | None:
    """Return a metric's value for people's JSON: None where it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _numbers(logs: Logs) -> dict[str, float]:
    """Logs as plain numbers, nested ones flattened, as fit hands them to callbacks."""
    numbers: dict[str, float] = {}
    for key, value in (logs or {}).items():
        if isinstance(value, Mapping):
            numbers.update(_numbers(value))
        else:
            try:
                numbers[key] = float(value)
            except (TypeError, ValueError):
                continue
    return numbers


def plain_logs(logs: Logs) -> Any:
    """Return logs as JSON; what is neither number nor plain is left out."""
    kept: dict[str, Any] = {}
    for key, value in (logs or {}).items():
        try:
            kept[key] = encode(_plain(value), _refuse)
        except (NotPlainError, TypeError):
            continue
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    return float(value)


def _refuse(path: str, array: Any) -> str:
    raise NotPlainError(f"{path}: an array of shape {array.shape}")
