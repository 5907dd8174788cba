"""What a checkpoint of a large state costs: Dense layers with Adam, 0.2 and 3.2 GB.

In one `fit` they take turns: steps alone, steps beside a checkpoint of ours that is being written,
the save of Keras's BackupAndRestore. Another fit gives ours to a store that throws the packs away:
what is left then is hashing, and new memory for the variables, whose old values are still held.
A third one leaves a core to that, as a training on a GPU does. A fourth neither hashes nor holds.
"""

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.checkpoint import ledger
from runner.checkpoint.packs import hash_bytes
from runner.store.filesystem import FileStore
from runner.training import numerics
from runner.training.data import Batches
from tests.benchmarks._tables import REPEATS, spread, table
from tests.benchmarks._training import Commits, OnDemand, at_each_step, seconds, trained
from tests.benchmarks.test_checkpoints import AUDITS, peak_memory, reset_memory

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

ALONE = 4  #: steps of each turn
BATCH = 32
WIDTHS = {16: 2000, 268: 8192}  #: of four layers, by millions of parameters


class Thrown(FileStore):
    """A disk that takes no time: packs are not written."""

    def put(self, key: str, data: Any) -> None:
        if "packs/" not in key:
            super().put(key, data)


@contextlib.contextmanager
def a_core_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep all threads but the one that hashes off the last core.

    TensorFlow's own settings do not: with one thread within and one between operations it is at
    work on both of two cores.
    """
    *others, _ = every = sorted(os.sched_getaffinity(0))

    def pin(cores: list[int]) -> None:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)

    def hashing(data: bytes | memoryview) -> str:
        os.sched_setaffinity(0, every)
        return hash_bytes(data)

    pin(others)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "hash_bytes", hashing)
            yield
    finally:
        pin(every)


class Turns:
    """Who saves after which step, and what was measured."""

    def __init__(self, model: Any, commits: Commits, every: OnDemand, keras_save: Any) -> None:
        self._model, self._checkpointer, self._every = model, commits.checkpointer, every
        self._keras_save = keras_save
        self._alone_left, self._began = ALONE, 0.0
        self._beside = False
        self.done = 0  #: turns
        self.alone: list[float] = []
        self.first_beside: list[float] = []
        self.beside: list[float] = []
        self.committed: list[float] = []
        self.keras: list[float] = []
        self.memory: list[int] = []
        self._memory_alone = self._begun = 0

    def before(self, step: int) -> None:
        if step == 1:
            self._checkpointer.wait()
        if self._alone_left == ALONE:
            self._begun = reset_memory()
        self._beside = self._checkpointer.busy
        self._began = time.perf_counter()

    def after(self, step: int) -> None:
        if step == 0:
            return
        took = time.perf_counter() - self._began
        if self._alone_left:
            self._alone_left -= 1
            self.alone.append(took)
            if not self._alone_left:
                self._memory_alone = peak_memory() - self._begun
                self._begun = reset_memory()
                self._every.wanted = True
            return
        if self._beside:
            first = len(self.first_beside) == self.done
            (self.first_beside if first else self.beside).append(took)
        if self._checkpointer.busy:
            return
        self.committed.append(self._checkpointer.write_seconds)
        self.memory.append(max(0, peak_memory() - self._begun - self._memory_alone))
        if self._keras_save is not None:
            self.keras.append(seconds(self._keras_save))
        self._alone_left, self.done = ALONE, self.done + 1
        if self.done == AUDITS + REPEATS:
            self._model.stop_training = True


def dense(width: int) -> Any:
    import keras

    numerics.apply()
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(width, "relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((width,)), *hidden, keras.layers.Dense(10)])
    model.compile(
        keras.optimizers.Adam(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=keras.config.backend() != "tensorflow",
    )
    return model


def memory_left() -> float:
    """Return GB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(one for one in lines if one.startswith("MemAvailable")).split()[1]) / 1e6


@pytest.mark.parametrize("millions", WIDTHS)
def test_a_large_state(millions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if memory_left() < (needed := 5 * 12 * millions / 1e3):
        pytest.skip(f"it needs {needed:.0f} GB of memory")
    rows = [
        *measured("runner.BackupAndRestore", millions, FileStore, tmp_path / "ours"),
        *measured("the same, packs thrown away", millions, Thrown, tmp_path / "thrown"),
    ]
    if len(os.sched_getaffinity(0)) > 1:
        with a_core_left(monkeypatch):
            name = "thrown away, a core left to the writer"
            rows += measured(name, millions, Thrown, tmp_path / "core")
    number = itertools.count()
    monkeypatch.setattr(ledger, "hash_bytes", lambda _: f"{next(number):064x}")
    rows += measured("thrown away and not hashed", millions, Thrown, tmp_path / "unhashed")
    table(
        f"One checkpoint of {millions} million parameters with Adam ({12 * millions / 1e3:.1f} GB);"
        f" median (range) of {REPEATS}",
        (
            "",
            "gap between steps, ms",
            "a step alone, s",
            "the first beside a write, x",
            "others, x",
            "committed after, s",
            "extra memory, MB",
            "restore, s",
        ),
        rows,
    )


def measured(
    name: str, millions: int, kind: type[FileStore], folder: Path
) -> list[tuple[str, ...]]:
    """Train until all have had their turns; ours, and Keras's where it writes to a disk as well."""
    import keras

    model = dense(WIDTHS[millions])
    whole = kind is FileStore
    backup = keras.callbacks.BackupAndRestore(str(folder / "keras"))
    backup.set_model(model)
    commits, every = Commits(kind(folder)), OnDemand()
    turns = Turns(model, commits, every, backup._save_model if whole else None)
    x = np.random.default_rng(1).random((400 * BATCH, WIDTHS[millions]), "float32")
    data = Batches(x, np.arange(len(x)) % 10, batch_size=BATCH, seed=1)
    loop = trained(model, data, commits, every, [at_each_step(turns.before, turns.after)])
    blocked = loop.saving.blocked_seconds[-REPEATS:]
    alone = statistics.median(turns.alone)
    restoring = [seconds(lambda: restore(model, commits)) for _ in range(whole and REPEATS)]
    ours = (
        name,
        spread([1e3 * one for one in blocked]),
        spread(turns.alone, digits=2),
        spread([one / alone for one in turns.first_beside], digits=2),
        spread([one / alone for one in turns.beside], digits=2),
        spread(turns.committed),
        spread([one / 1e6 for one in turns.memory], digits=0),
        spread(restoring),
    )
    if not whole:
        return [ours]
    loading = [seconds(backup._load_model) for _ in range(REPEATS)]
    saving = spread([1e3 * one for one in turns.keras])
    return [ours, ("keras BackupAndRestore", saving, *[""] * 5, spread(loading))]


def restore(model: Any, commits: Commits) -> None:
    from runner.training.state.variables import Variables

    restored = commits.again().restore()
    assert restored is not None
    Variables(model).assign(restored.tensors)
