"""Training a spec: stock `model.fit` with a list of callbacks of our own.

The checkpoint is fetched while TensorFlow is imported and the network built, since
neither needs it; only the number of threads, which decides over bits, is read before.
"""

import gc
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runner import code
from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.forking import is_brought
from runner.checkpoint.ledger import Ledger
from runner.checkpoint.manifest import Reference
from runner.checkpoint.policy import for_job
from runner.checkpoint.reading import Restored, read_manifest
from runner.errors import (
    CheckpointError,
    DivergedError,
    OtherModelError,
    PreemptedError,
    SpecError,
    TrainingError,
)
from runner.spec import JobSpec
from runner.specparts import EarlyStopping, ReduceLROnPlateau, seconds
from runner.store.base import Store
from runner.training.best import Best
from runner.training.host import Host
from runner.training.tensorboard import Boards

if TYPE_CHECKING:
    import keras

    from runner.training.loop import Loop
    from runner.training.program import Program
    from runner.training.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Past:
    """Where a job lies, and what it has been through."""

    store: Store
    prefix: str  #: the job's folder in the store
    token: int  #: of the lease
    checkpoints: Sequence[Mapping[str, Any]] = ()  #: references in the job's log, newest first
    best: Mapping[str, Any] | None = None  #: reference of the best checkpoint so far
    weights: Mapping[str, Any] | None = None  #: reference to those that a new job begins with
    #: how often a job is interrupted decides how often "auto" saves
    running_seconds: float = 0.0
    interruptions: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training that has ended."""

    final: Reference  #: the final checkpoint: committed, after all callbacks have ended
    evaluates: bool  #: the program says how it is evaluated
    weights: str = ""  #: which ones an early stopping has put back, in words


def train(spec: JobSpec, past: Past, host: Host) -> Trained:
    """Train from the newest checkpoint that is whole, or from the beginning, to the end.

    Raises:
        PreemptedError: asked to stop; saved.
        LeaseLostError: another worker owns the job.
        SpecError, TrainingError, CheckpointError: the job's own fault.
    """
    from runner.training.quiet import import_keras

    wanted = spec.training.tensorboard or "tensorboard" in spec.trackers
    boards = Boards(past.store, past.prefix) if wanted else None
    ledger = Ledger(
        past.store,
        past.prefix,
        token=past.token,
        commit=host.commit,
        checkpoints=past.checkpoints,
        best=past.best,
        keep=spec.checkpoint.keep,
        warn=host.note,
    )
    checkpointer = Checkpointer(
        ledger,
        patience_seconds=seconds(spec.checkpoint.max_loss),
        warn=host.note,
        on_committed=boards.committed if boards else lambda _: None,
    )
    pool = ThreadPoolExecutor(1, thread_name_prefix="restore")
    restoring = pool.submit(checkpointer.restore)
    try:
        import_keras()
        host.spent.on("build")
        program, loop, weights = _train(spec, past, host, checkpointer, restoring.result)
    finally:
        host.spent.on("save")  # what is under way is waited for
        gc.unfreeze()
        pool.shutdown(wait=False)  # a stop need not wait for a download
        checkpointer.close(host.seconds_left)
    if boards is not None:  # where a death came between the last commit and its files
        boards.write(loop.capture.history(), loop.capture.epoch_times)
    if loop.final is None:
        raise TrainingError(f"{spec.name} ended without a final checkpoint.")
    return Trained(final=loop.final, evaluates=program.evaluate is not None, weights=weights)


def saved_threads(store: Store, checkpoints: Sequence[Mapping[str, Any]]) -> int | None:
    """Threads that the job began with: part of its bits, so every machine uses as many."""
    for checkpoint in checkpoints:
        try:
            manifest = read_manifest(store, Reference.from_json(checkpoint).manifest)
        except CheckpointError:
            continue  # the restore will say which piece is damaged
        threads = manifest.numerics.get("threads")
        return threads if isinstance(threads, int) else None
    return None


def _train(
    spec: JobSpec,
    past: Past,
    host: Host,
    checkpointer: Checkpointer,
    restore: Callable[[], Restored | None],
) -> "tuple[Program, Loop, str]":
    """Build what is trained, then train all phases; and with which weights it ends."""
    from runner.training import numerics
    from runner.training.first_weights import load_given
    from runner.training.programs import make

    _leave_if_asked(host)  # the imports took seconds
    threads = saved_threads(past.store, past.checkpoints) or spec.training.threads
    numerics.apply(threads=threads, deterministic=spec.training.deterministic)
    devices = numerics.devices(spec.training.devices)
    program = make(spec, devices=devices)
    _divide_batches(program, devices, host)
    _leave_if_asked(host)
    with host.spent.during("restore"):
        restored = restore()
    settings = _settings(spec, past, host)
    if restored is not None:
        settings.start = restored.position
    else:
        first = [*program.load_first_weights(), *load_given(program.model, spec, past)]
        settings.notes = [*first, *_code_notes()]
        if past.weights is not None:
            checkpointer.ledger.begin_with(past.weights)
    for number, phase in enumerate(spec.training.phases or [None]):
        if number < settings.start.phase:
            continue
        if number > settings.start.phase:  # it begins now: no checkpoint is of it yet
            restored = None
            settings.start = replace(
                settings.start, phase=number, phase_epoch=settings.start.epoch, step=0, stop=False
            )
        program.begin_phase(phase)
        callbacks = [*make_callbacks(spec), *program.callbacks]
        loop = fit(
            program.model,
            program.fit,
            callbacks=callbacks,
            epochs=(phase or spec.training).epochs,
            checkpointer=checkpointer,
            restored=restored,
            settings=settings,
        )
        settings = replace(
            settings,
            start=loop.saving.position,
            history=loop.capture.history(),
            epoch_times=loop.capture.epoch_times,
            notes=(),
        )
    return program, loop, _put_back(callbacks)


def _put_back(callbacks: "Sequence[keras.callbacks.Callback]") -> str:
    """Say which weights Keras's EarlyStopping has put back at the end; "" if it has not."""
    import keras

    for one in reversed(callbacks):
        early = isinstance(one, keras.callbacks.EarlyStopping) and one.restore_best_weights
        if early and one.best_weights is not None:
            return f"of epoch {one.best_epoch + 1}, its best {one.monitor}"
    return ""


def _divide_batches(program: "Program", devices: int, host: Host) -> None:
    """Let each device get an example of each batch; say where they do not get equally many."""
    from runner.training import backends
    from runner.training.data import Batches

    data, replicas = program.fit["x"], backends.current().replicas(program.model)
    if devices > 1 and replicas != devices:
        raise SpecError(
            f"training.devices: {devices} are to be used, and the program's model is for"
            f" {replicas}: build it within program(...), without keras.utils.clear_session()."
        )
    if isinstance(data, Batches):
        data.least = devices
    size = data.batch_size if isinstance(data, Batches) else program.fit.get("batch_size")
    if size and size % devices:
        host.note(
            f"batches of {size} can't be divided evenly among {devices} devices, and are slower: "
            f"choose a multiple of {devices}."
        )


def _code_notes() -> list[str]:
    """Say, for the record of a job's first checkpoint, which of the user's code trains it."""
    if not (mine := code.identity()):
        return []
    commit = code.git_commit()
    return [f"trained by {mine}" + (f", commit {commit}" if commit else "")]


def _settings(spec: JobSpec, past: Past, host: Host) -> "Settings":
    from runner.training.settings import Settings

    best = spec.checkpoint.best
    return Settings(
        every=for_job(
            spec.checkpoint.every,
            max_loss_seconds=seconds(spec.checkpoint.max_loss),
            running_seconds=past.running_seconds,
            interruptions=past.interruptions,
        ),
        best=Best(best.monitor, best.mode) if best else None,
        host=host,
        on_first_step=_settle,
    )


def fit(
    model: "keras.Model",
    arguments: Mapping[str, Any],
    *,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    epochs: int,
    checkpointer: Checkpointer,
    restored: Restored | None = None,
    settings: "Settings",
) -> "Loop":
    """Train a compiled model by `model.fit`, from what was restored if there is something.

    Args:
        model: to be trained.
        arguments: of its fit: the data, and whatever else the program gives.
        callbacks: of Keras's; they are called before our part of each hook.
        epochs: how many this fit has, those before a kill included.
        checkpointer: of the job, under its lease. The caller closes it.
        restored: a checkpoint of this fit.
        settings: see there; `start` is where this fit stands.
    """
    import keras

    from runner.training.data.sources import open_source
    from runner.training.fit import Hooks, first_epoch, of_batches
    from runner.training.loop import Loop, Opened

    settings.host.spent.on("build")
    first = settings.start.phase_epoch
    last = first + epochs
    if restored is not None:
        first = first_epoch(restored.position, last)

    def begin(running: Any) -> Opened:
        source, variables = open_source(running, warn=settings.warn)
        return Opened(
            source=source, checkpointer=checkpointer, restored=restored, variables=variables
        )

    running = of_batches(arguments, epochs=last, initial_epoch=first)
    steps = running.steps if running else None  # else the loop finds it out
    others = keras.callbacks.CallbackList(
        [*callbacks], add_history=True, model=model, verbose=0, epochs=last, steps=steps
    )
    loop = Loop(Hooks(others), model, running, settings, begin)
    try:
        model.fit(**arguments, initial_epoch=first, epochs=last, callbacks=loop, verbose=0)
    except OtherModelError as error:
        if restored is None or not is_brought(restored.reference):
            raise
        weights = '"take": "weights" begins a new training with the weights that fit'
        raise SpecError(f"from: {error} Or take less: {weights}.") from error
    except DivergedError as error:
        raise DivergedError(f"in epoch {loop.saving.position.epoch + 1}: {error}") from error
    finally:
        loop.release()
    return loop


def _settle() -> None:
    """Free what earlier trainings of this process left, and look at what is there no more.

    Half a million objects of Keras and TensorFlow stay: a look at all of them takes 0.3 s.
    """
    gc.collect()
    gc.freeze()


def _leave_if_asked(host: Host) -> None:
    """Stop before the first step, when there is nothing to save yet."""
    if reason := host.should_stop():
        msg = f"stopped ({reason}) before this attempt's first step; nothing is lost."
        raise PreemptedError(msg)


def make_callbacks(spec: JobSpec) -> "list[keras.callbacks.Callback]":
    """Make the Keras callbacks that the spec asks for."""
    import keras

    training = spec.training
    remedy = 'Lower optimizer.learning_rate, or set optimizer.arguments to {"clipnorm": 1.0}.'
    if spec.program is not None:
        remedy = "Lower its learning rate, or give its optimizer a clipnorm."
    callbacks = [_stop_at_nan(remedy)] if training.terminate_on_nan else []
    if early := training.early_stopping:
        callbacks.append(
            keras.callbacks.EarlyStopping(**{**early.model_dump(), "mode": _mode(early)})
        )
    if plateau := training.reduce_lr_on_plateau:
        named = plateau.model_dump() | {"mode": _mode(plateau)}
        named["min_lr"] = named.pop("min_learning_rate")
        callbacks.append(keras.callbacks.ReduceLROnPlateau(**named))
    return callbacks


def _mode(part: EarlyStopping | ReduceLROnPlateau) -> str:
    return Best(part.monitor, part.mode).mode


def _stop_at_nan(remedy: str) -> "keras.callbacks.Callback":
    import keras

    class StopAtNaN(keras.callbacks.Callback):  # type: ignore[misc]
        """Ends a diverged training before its state can be committed.

        Keras's TerminateOnNaN ends it like a finished one, broken weights and all.
        """

        def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
            loss = (logs or {}).get("loss")
            if loss is not None and not math.isfinite(loss):
                msg = f"the loss became {loss} at step {batch + 1}: the training has diverged. "
                raise DivergedError(msg + remedy)

    return StopAtNaN()
