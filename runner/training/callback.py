"""`BackupAndRestore`: Keras's callback of that name, but a resumed training is the same training.

Keras's own brings back weights and the epoch. This one brings back everything that a step can
see: optimizer slots, metrics, every seed, other callbacks, History, the position in the data.
It works off the training thread and keeps no half-written file.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.manifest import Position, Reference
from runner.checkpoint.policy import Every, Interval, for_job, parse
from runner.checkpoint.reading import Restored
from runner.errors import TrainingError
from runner.training import frames
from runner.training.best import Best
from runner.training.folder import Folder
from runner.training.host import Host
from runner.training.loop import Loop
from runner.training.progress import OnProgress, Progress
from runner.training.settings import Settings
from runner.training.takeover import Takeover
from runner.training.trace import Recorder

MOST_LOSS = 600.0  #: seconds between checkpoints with every="auto", at most
_ENDED: Counter[str] = Counter()  #: by backup folder: fits of this process that have ended


class BackupAndRestore(keras.callbacks.Callback):  # type: ignore[misc]
    """Backs up the whole training state, and continues from it, bit for bit.

    Give it to `model.fit` like any callback, at any place in the list, with `runner.Batches` as
    data; run the same program again after whatever killed it.

    Args:
        backup_dir: a folder or any fsspec URL, for this training alone.
        save_freq: "epoch", or a number of steps.
        double_checkpoint: keep the checkpoint before the newest one, too. Always done: a damaged
            one is passed over.
        delete_checkpoint: remove the folder when the training has ended.
        every: instead of save_freq: "30s", "200 steps", "1 epoch", "auto" (what loses least if
            an interruption comes every four hours, ten minutes apart at most).
        best: keep the best epoch's checkpoint as well: the name of the metric that decides.
        best_mode: "max", "min" or "auto".
        keep: how many of the newest checkpoints stay.
        should_stop: asked after each step; a text stops the training, with everything saved.
        on_progress: told now and then how far it is.

    Example:
        >>> keras.utils.set_random_seed(1)
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> data = Batches(np.ones((8, 4)), np.ones(8), batch_size=2, seed=1)
        >>> backup = BackupAndRestore(folder, save_freq=2, delete_checkpoint=False)
        >>> history = model.fit(data, epochs=2, callbacks=[backup], verbose=0)
        >>> backup.final.step
        8
    """

    def __init__(
        self,
        backup_dir: str,
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        *,
        every: str | None = None,
        best: str | None = None,
        best_mode: str = "auto",
        keep: int = 2,
        should_stop: Callable[[], str | None] = lambda: None,
        on_progress: OnProgress | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not backup_dir:
            raise ValueError("Empty `backup_dir` argument passed")
        self.backup_dir = backup_dir
        self.save_freq = save_freq
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
        if every and save_freq != "epoch":
            raise ValueError(
                f"Received both every={every!r} and save_freq={save_freq!r}: give one."
            )
        self._folder = Folder(str(backup_dir), keep=keep, storage_options=storage_options)
        self._settings = Settings(
            every=_every(every) if every else _save_freq(save_freq),
            best=Best(best, best_mode) if best else None,
            host=_Program(should_stop, on_progress or (lambda _: None)),
            reports=on_progress is not None,
            inform=self._inform,
            waits=False,
            discard=self._folder.delete if delete_checkpoint else None,
            recorder=Recorder.ordered(),
        )
        if self._settings.recorder is not None:  # in a place of its own, and at any step
            self._settings.every, self._settings.discard = Interval(steps=1), None
            self._settings.warn = self._settings.recorder.warn
        self._takeover: Takeover | None = None

    def _open(self) -> tuple[Checkpointer, Restored | None]:
        recorder = self._settings.recorder
        if recorder is None:
            return self._folder.open()
        return recorder.open(
            str(self.backup_dir),
            ended=self._settings.number,
            lasting=not self.delete_checkpoint,
        )

    @property
    def _loop(self) -> Loop | None:
        loop = self._takeover.loop if self._takeover is not None else None
        return loop if loop is not None and loop.begun else None

    @property
    def final(self) -> Reference | None:
        """The state after on_train_end, committed; None before that, and if it was deleted."""
        return self._loop.final if self._loop is not None else None

    @property
    def position(self) -> Position:
        """Where the training stands."""
        return self._loop.saving.position if self._loop is not None else Position()

    def _inform(self, text: str) -> None:
        if (self.params or {}).get("verbose"):
            print(f"BackupAndRestore: {text}")  # noqa: T201 - as fit's own lines

    def set_model(self, model: Any) -> None:
        """Take over the list that fit has just put us into."""
        super().set_model(model)
        callbacks = frames.callback_list_above(self)
        if callbacks is not None and model is not None:
            self._settings.number = _ENDED[str(self.backup_dir)]
            self._takeover = Takeover(
                callbacks, self, self._open, self._folder.release, self._settings
            )

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Count the fits of this program that have ended."""
        _ENDED[str(self.backup_dir)] += 1

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Check that the list was taken over."""
        if self._takeover is None:
            raise TrainingError(
                "BackupAndRestore must stand in fit's own list: callbacks=[..., BackupAndRestore()]"
            )


class _Program(Host):
    """The program that called fit; what it reports goes to its log."""

    def __init__(self, should_stop: Callable[[], str | None], on_progress: OnProgress) -> None:
        self._should_stop = should_stop
        self._on_progress = on_progress

    def should_stop(self) -> str | None:
        return self._should_stop()

    def progressed(self, progress: Progress) -> None:
        self._on_progress(progress)


def _every(text: str) -> Every:
    if text.strip().lower() != "auto":
        return parse(text)
    most = 2 * MOST_LOSS  # of which the half lies between two checkpoints
    return for_job(text, max_loss_seconds=most, running_seconds=0.0, interruptions=0)


def _save_freq(save_freq: str | int) -> Every:
    if save_freq == "epoch":
        return Interval(epochs=1)
    if save_freq is False:
        return Interval()
    if isinstance(save_freq, int) and save_freq > 0 and save_freq is not True:
        return Interval(steps=save_freq)
    raise ValueError(
        "Invalid value for argument `save_freq`. "
        f"Received: save_freq={save_freq}. "
        "Expected either 'epoch' or an integer value."
    )
