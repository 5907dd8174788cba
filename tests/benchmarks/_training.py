"""What the benchmarks train: MyInception with Adam on made-up pictures, as jobs train it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runner import registry
from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Ledger
from runner.checkpoint.policy import Every, Since
from runner.commit import Commit
from runner.store.base import Store
from runner.store.filesystem import FileStore
from runner.training import numerics
from runner.training.assemble import assemble
from runner.training.data import Batches

BATCH = 32


def myinception() -> Any:
    """Return the compiled network: 5.74 million parameters; under TensorFlow without XLA."""
    return compiled("myinception", {}, image_size=32)


def compiled(name: str, arguments: Mapping[str, Any], *, image_size: int) -> Any:
    import keras

    numerics.apply()
    assembled = assemble(
        registry.get("models", name),
        arguments,
        image_shape=(image_size, image_size, 3),
        classes=100,
        augmentation=None,
        seed=1,
    )
    assembled.model.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="top_1")],
        jit_compile=keras.config.backend() != "tensorflow",
    )
    return assembled.model


def settle(model: Any) -> None:
    """Wait until the device has done the steps that fit has given it; TensorFlow's fit waits."""
    import keras

    if keras.config.backend() == "jax":
        import jax

        state = getattr(model, "_jax_state", None) or {}  # Keras's dict, whose inside JAX can't see
        jax.block_until_ready([list(arrays) for arrays in state.values()])


def pictures(count: int, *, image_size: int = 32) -> tuple[Any, Any]:
    random = np.random.default_rng(1)
    x = random.integers(0, 256, (count, image_size, image_size, 3), "uint8")
    return x, random.integers(0, 100, count)


def batches(steps: int, *, image_size: int = 32, batch: int = BATCH) -> Batches:
    return Batches(*pictures(steps * batch, image_size=image_size), batch_size=batch, seed=1)


class Commits:
    """Stands for a job's log: keeps what is committed."""

    def __init__(self, store: Store | Path) -> None:
        self.store = FileStore(store) if isinstance(store, Path) else store
        self.manifests: list[str] = []
        self.bytes_written: list[int] = []  #: in all, at each commit
        self.newest: Mapping[str, Any] | None = None
        self.checkpointer = Checkpointer(Ledger(self.store, "", token=1, commit=self))

    def __call__(self, commit: Commit) -> None:
        self.newest = commit.checkpoints[0]
        self.manifests.append(self.newest["manifest"])
        self.bytes_written.append(self.checkpointer.ledger.bytes_written)

    def again(self) -> Checkpointer:
        """Return what a later attempt has: a fresh object that knows the newest reference."""
        assert self.newest is not None
        ledger = Ledger(self.store, "", token=2, commit=self, checkpoints=[self.newest])
        return Checkpointer(ledger)


def trained(model: Any, data: Batches, commits: Commits, every: Every, callbacks: list[Any]) -> Any:
    """Train for an epoch as a job does, and return its loop."""
    from runner.training.settings import Settings
    from runner.training.trainer import fit

    return fit(
        model,
        {"x": data},
        callbacks=callbacks,
        epochs=1,
        checkpointer=commits.checkpointer,
        settings=Settings(every=every),
    )


class OnDemand:
    """A policy: a checkpoint is due when the benchmark says so."""

    def __init__(self) -> None:
        self.wanted = False

    def due(self, since: Since) -> bool:
        wanted, self.wanted = self.wanted, False
        return wanted and since.steps > 0

    def describe(self, cost_seconds: float = 0.0) -> str:
        return "on demand"


def at_each_step(
    before: Callable[[int], object], after: Callable[[int], object] | None = None
) -> Any:
    """Return a callback that calls these with the step's number (from 0) in its epoch."""
    import keras

    class Before(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            before(batch)

    if after is None:
        return Before()
    told = after

    class Both(Before):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            told(batch)

    return Both()


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
