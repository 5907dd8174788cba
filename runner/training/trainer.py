"""Training a spec: stock `model.fit`, made exact and killable by the public callback.

The checkpoint is fetched while TensorFlow is imported and the network built, since
neither needs it; only the number of threads, which decides over bits, is read before.
"""

import gc
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Ledger
from runner.checkpoint.manifest import Position, Reference
from runner.checkpoint.policy import Every, for_job
from runner.checkpoint.reading import Restored, read_manifest
from runner.commit import Commit
from runner.datasets.arrays import Dataset
from runner.errors import CheckpointError, DivergedError, PreemptedError, TrainingError
from runner.spec import EarlyStopping, JobSpec, ReduceLROnPlateau, seconds
from runner.store.base import Store
from runner.training.check import check_fit, load_data, obtaining
from runner.training.progress import OnProgress, Progress
from runner.training.tensorboard import Boards
from runner.training.urgency import NoHurry, Urgency

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a job has been through: how often it is interrupted decides how often to save."""

    running_seconds: float = 0.0
    interruptions: int = 0


def train(
    spec: JobSpec,
    *,
    store: Store,
    prefix: str,
    token: int,
    commit: Callable[[Commit], object],
    checkpoints: Sequence[Mapping[str, Any]] = (),
    best: Mapping[str, Any] | None = None,
    past: Past = Past(),
    should_stop: Callable[[], str | None] = lambda: None,
    urgency: Urgency = NoHurry(),  # noqa: B008 - without a state
    on_progress: OnProgress = lambda _: None,
) -> Reference:
    """Train from the newest checkpoint that is whole, or from the beginning, to the end.

    Args:
        spec: what to train.
        store: where checkpoints lie.
        prefix: the job's folder in it.
        token: of the lease.
        commit: makes a checkpoint count.
        checkpoints: references in the job's log, newest first.
        best: reference of the best checkpoint so far.
        past: for checkpoint.every "auto".
        should_stop: asked after each step; a text means save and stop.
        urgency: how much time there is for that, and whether to save before it is due.
        on_progress: told several times a second at most.

    Returns:
        The final checkpoint: committed, after all callbacks have ended.

    Raises:
        PreemptedError: asked to stop; saved.
        LeaseLostError: another worker owns the job.
        SpecError, TrainingError, CheckpointError: the job's own fault.
    """
    notes: list[str] = []

    def warn(text: str) -> None:
        logger.warning(text)
        if text not in notes:
            notes.append(text)

    boards = Boards(store, prefix) if spec.training.tensorboard else None
    ledger = Ledger(
        store,
        prefix,
        token=token,
        commit=_with_notes(commit, notes),
        checkpoints=checkpoints,
        best=best,
        keep=spec.checkpoint.keep,
        warn=warn,
    )
    checkpointer = Checkpointer(
        ledger,
        patience_seconds=seconds(spec.checkpoint.max_loss),
        warn=warn,
        on_committed=boards.committed if boards else lambda _: None,
    )
    every = for_job(
        spec.checkpoint.every,
        max_loss_seconds=seconds(spec.checkpoint.max_loss),
        running_seconds=past.running_seconds,
        interruptions=past.interruptions,
    )
    threads = saved_threads(store, checkpoints) or spec.training.threads
    pool = ThreadPoolExecutor(1, thread_name_prefix="restore")
    restoring = pool.submit(checkpointer.restore)
    try:
        return _fit(
            spec,
            checkpointer,
            every=every,
            boards=boards,
            threads=threads,
            restore=restoring.result,
            notes=notes,
            should_stop=should_stop,
            urgency=urgency,
            on_progress=on_progress,
        )
    finally:
        gc.unfreeze()
        pool.shutdown(wait=False)  # a stop need not wait for a download
        checkpointer.close(urgency.seconds_left)


def load_checked(spec: JobSpec) -> Dataset:
    """Load the spec's data and check that spec and data fit.

    Raises:
        SpecError: they don't, or the data cannot be used.
        MissingHereError: the data can't be had here and now.
    """
    with obtaining():
        dataset = load_data(spec)
    check_fit(spec, dataset)
    if dataset.left_out:
        logger.info("%s: left out: %s", dataset.source, dataset.left_out)
    return dataset


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


def _fit(
    spec: JobSpec,
    checkpointer: Checkpointer,
    *,
    every: Every,
    boards: Boards | None,
    threads: int | None,
    restore: Callable[[], Restored | None],
    notes: list[str],
    should_stop: Callable[[], str | None],
    urgency: Urgency,
    on_progress: OnProgress,
) -> Reference:
    from runner.training.quiet import import_keras

    import_keras()
    from runner.training import numerics
    from runner.training.best import Best
    from runner.training.build import build, compile_phase
    from runner.training.callback import BackupAndRestore
    from runner.training.data import Batches, Held

    _leave_if_asked(should_stop)  # the imports took seconds
    numerics.apply(threads=threads, deterministic=spec.training.deterministic)
    dataset = load_checked(spec)
    _leave_if_asked(should_stop)
    split = dataset.split(spec.data.validation_split, seed=spec.seed)
    held = Held((dataset.x_train, dataset.y_train), own=True)
    batches = Batches.of_rows(
        held,
        split.train,
        batch_size=spec.training.batch_size,
        seed=spec.seed,
        repeat=spec.data.repeat,
    )
    validation = Batches.of_rows(
        held,
        split.validation,
        batch_size=spec.training.batch_size,
        seed=spec.seed,
        shuffle=False,
    ) if len(split.validation) else None  # fmt: skip
    keep = spec.checkpoint.best
    best = Best(keep.monitor, keep.mode) if keep else None
    tell = _with_speed(on_progress, spec.training.batch_size)
    with obtaining():
        assembled = build(spec, dataset)
    del dataset  # what is held of it is all that is needed from here on
    _leave_if_asked(should_stop)
    phases = spec.training.phases
    # where nothing depends on it, the checkpoint may arrive while the graph is built
    restored = restore() if phases or assembled.pretrained is not None else None
    if assembled.pretrained is not None and restored is None:
        with obtaining():
            weights = assembled.pretrained()  # part of checkpoint 0: no later attempt needs them
        notes.append(f"began with {', '.join(f'{key} {value}' for key, value in weights.items())}")
    position = restored.position if restored is not None else Position()
    history: dict[str, list[Any]] = {}
    times: list[float] = []
    final: Reference | None = None
    for number, phase in enumerate(phases or [None]):
        if number < position.phase:
            continue
        fetch = restore
        if phases and (restored is None or number > restored.position.phase):
            fetch = _nothing
            position = replace(
                position, phase=number, phase_epoch=position.epoch, step=0, stop=False
            )
        compile_phase(assembled, spec, phase)
        backup = BackupAndRestore.for_job(
            checkpointer,
            every=every,
            best=best,
            should_stop=should_stop,
            urgency=urgency,
            on_progress=_after_first_step(_settle, tell),
            restore=fetch,
            start=position,
            history=history,
            epoch_times=times,
        )
        assembled.model.fit(
            batches,
            initial_epoch=position.phase_epoch,
            epochs=position.phase_epoch + (phase.epochs if phase else spec.training.epochs),
            validation_data=validation,
            callbacks=[*make_callbacks(spec), backup],
            verbose=0,
        )
        position, history, final = backup.position, backup.history, backup.final
        times = backup.epoch_times
    if boards is not None:
        boards.write(history, times)  # where a death came between the last commit and its files
    if final is None:
        msg = f"{spec.name} ended without a final checkpoint."
        raise TrainingError(msg)
    return final


def _settle() -> None:
    """Free what earlier trainings of this process left, and look at what is there no more.

    Half a million objects of Keras and TensorFlow stay: a look at all of them takes 0.3 s.
    """
    gc.collect()
    gc.freeze()


def _nothing() -> None:
    """A phase that begins now has no checkpoint of its own yet."""


def _with_notes(commit: Callable[[Commit], object], notes: list[str]) -> Callable[[Commit], object]:
    """Say the notes with the next commit, once."""

    def call(made: Commit) -> object:
        said = len(notes)
        result = commit(replace(made, notes=[*notes[:said], *made.notes]))
        del notes[:said]
        return result

    return call


def _leave_if_asked(should_stop: Callable[[], str | None]) -> None:
    """Stop before the first step, when there is nothing to save yet."""
    if reason := should_stop():
        msg = f"stopped ({reason}) before this attempt's first step; nothing is lost."
        raise PreemptedError(msg)


def make_callbacks(spec: JobSpec) -> "list[keras.callbacks.Callback]":
    """Make the Keras callbacks that the spec asks for."""
    training = spec.training
    callbacks = []
    if training.terminate_on_nan:
        callbacks.append(_stop_at_nan())
    if training.early_stopping:
        callbacks.append(_early_stopping(training.early_stopping))
    if training.reduce_lr_on_plateau:
        callbacks.append(_reduce_lr(training.reduce_lr_on_plateau))
    return callbacks


def _early_stopping(spec: EarlyStopping) -> "keras.callbacks.Callback":
    import keras

    return keras.callbacks.EarlyStopping(
        monitor=spec.monitor,
        mode=_mode(spec.monitor),
        patience=spec.patience,
        min_delta=spec.min_delta,
        restore_best_weights=spec.restore_best_weights,
    )


def _reduce_lr(spec: ReduceLROnPlateau) -> "keras.callbacks.Callback":
    import keras

    return keras.callbacks.ReduceLROnPlateau(
        monitor=spec.monitor,
        mode=_mode(spec.monitor),
        factor=spec.factor,
        patience=spec.patience,
        min_delta=spec.min_delta,
        cooldown=spec.cooldown,
        min_lr=spec.min_learning_rate,
    )


def _mode(monitor: str) -> str:
    return "min" if monitor.endswith("loss") else "max"


def _stop_at_nan() -> "keras.callbacks.Callback":
    import keras

    class StopAtNaN(keras.callbacks.Callback):  # type: ignore[misc]
        """Ends a diverged training before its state can be committed.

        Keras's TerminateOnNaN ends it like a finished one, broken weights and all.
        """

        def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
            loss = (logs or {}).get("loss")
            if loss is not None and not math.isfinite(loss):
                msg = (
                    f"the loss became {loss} at step {batch + 1} of an epoch: the training has"
                    " diverged. Lower optimizer.learning_rate, or set optimizer.arguments to"
                    ' {"clipnorm": 1.0}.'
                )
                raise DivergedError(msg)

    return StopAtNaN()


def _after_first_step(act: Callable[[], None], on_progress: OnProgress) -> OnProgress:
    """Act once, when a fit reports its first step; it reports its beginning before."""
    begun_at: int | None = None
    acted = False

    def tell(progress: Progress) -> None:
        nonlocal begun_at, acted
        begun_at = progress.global_step if begun_at is None else begun_at
        if progress.global_step > begun_at and not acted:
            acted = True
            act()
        on_progress(progress)

    return tell


def _with_speed(on_progress: OnProgress, batch_size: int) -> OnProgress:
    """Add images per second, over the steps since the last look."""
    first: int | None = None  # the step at which this attempt began
    last: tuple[float, int] | None = None
    speed: float | None = None

    def tell(progress: Progress) -> None:
        nonlocal first, last, speed
        now = time.perf_counter()
        step = progress.global_step
        first = step if first is None else first
        if progress.stage != "train":
            last = None  # a validation's time is no training speed
        elif step > first:  # the first step's time is the tracing's
            if last is not None and step > last[1]:
                newest = (step - last[1]) * batch_size / (now - last[0])
                speed = newest if speed is None else 0.7 * speed + 0.3 * newest
            last = (now, step)
        on_progress(replace(progress, images_per_second=speed))

    return tell
