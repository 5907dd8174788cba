"""Programs of a user's own, written to a folder and worked on in this process."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner import spec as specs
from runner.checkpoint.manifest import Reference
from runner.checkpoint.reading import read_manifest
from runner.engine.stages import run_stage
from runner.errors import PreemptedError
from runner.queue.lease import Lease
from runner.queue.queue import Queue
from runner.queue.record import OF_THE_RUN
from runner.store.base import Store
from runner.training.host import Host
from tests.store.memory import MemoryStore

HEAD = """
import keras
import numpy as np
import runner

def made(seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(96, 4)).astype("float32")
    return x, (x.sum(1) > 0).astype("int32")

def network(*, last=1, activation="sigmoid"):
    return keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(8, "relu"),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(last, activation=activation),
    ])
"""


BATCHES = """
def program(*, units: int = 1):
    x, y = made()
    model = network()
    model.compile("adam", "binary_crossentropy", metrics=["mae"])
    return runner.Program(
        model=model,
        fit={"x": runner.Batches(x, y, batch_size=16, seed=1), "validation_data": made(1)},
        evaluate=dict(zip("xy", made(2))),
        classes=["low", "high"],
    )
"""


PIPELINE = """
import tensorflow as tf

def program():
    data = tf.data.Dataset.from_tensor_slices(made())
    data = data.shuffle(96, seed=3, reshuffle_each_iteration=False).batch(16).repeat()
    model = network()
    model.compile("adam", "binary_crossentropy")
    return runner.Program(
        model=model,
        fit={"x": data, "steps_per_epoch": 5, "validation_data": made(1), "validation_steps": 2},
        evaluate={"x": data, "steps": 3},
    )
"""


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / "programs" / f"{name}.py"
    path.write_text(HEAD + text)
    return path


def spec_of(**parts: Any) -> specs.JobSpec:
    raw = {
        "name": "mine",
        "program": {"name": "mine"},
        "training": {"epochs": 3, "threads": 1},
        "checkpoint": {"every": "1 steps", "best": {"monitor": "loss"}},
    }
    return specs.parse({**raw, **parts}, source="test")


class Worker(Host):
    """An attempt in this process, as the engine has it; it stops after so many questions."""

    def __init__(self, store: Store, lease: Lease, spec: Mapping[str, Any], stop: int) -> None:
        self.store = store
        self.lease = lease
        self.spec = spec
        self.notes: list[str] = []
        self._left = stop

    @property
    def prefix(self) -> str:
        return "jobs/mine"

    def should_stop(self) -> str | None:
        self._left -= 1
        return "SIGTERM" if self._left < 0 else None

    def note(self, text: str) -> None:
        self.notes.append(text)

    def commit(self, commit: Any) -> object:
        return self.lease.commit(commit)


def finished(
    spec: specs.JobSpec, *stops: int, between: Callable[[], object] = lambda: None
) -> tuple[Queue, Any]:
    """Train and evaluate a job, stopped so often; the queue and the ended job."""
    queue = Queue(MemoryStore())
    job = queue.submit("mine", spec.effective())
    left = [*stops, 10**9, 10**9]
    while not job.ended:
        lease = queue.claim(job, {"host": "here", "pid": 1})
        try:
            run_stage(Worker(queue.store, lease, spec.effective(), left.pop(0)))
        except PreemptedError as error:
            lease.release(str(error))
            between()
        job = queue.job("mine")
    return queue, job


def results(queue: Queue, job: Any) -> tuple[Any, ...]:
    """What two runs of one job must have in common: digest, History, evaluation."""
    final = Reference.from_json(job.final)
    evaluation = {k: v for k, v in job.evaluation.items() if k not in OF_THE_RUN}
    return final.digest, read_manifest(queue.store, final.manifest).history, evaluation


ATTRIBUTES = """
class Scaled(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner, self.temperature = keras.layers.Dense(1), 1.0
    def call(self, x):
        return self.inner(x) * self.temperature

class Sets(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.best, self.seen = None, []
    def on_train_begin(self, logs=None):
        self.made = {}
    def on_epoch_end(self, epoch, logs=None):
        self.best, self.made["last"] = epoch, epoch
        self.seen.append(epoch)
        self.model.temperature = 3.0 + epoch
    def on_train_end(self, logs=None):
        self.model.threshold = 0.75

def program(*, own: bool = True, late: bool = True):
    x, y = made()
    model = Scaled() if own else network()
    if not late:
        model.build((None, 4))
    model.compile("adam", "mse")
    sets = Sets()
    return runner.Program(
        model=model,
        fit={"x": x, "y": y},
        callbacks=[sets, keras.callbacks.CSVLogger("log.csv")],
        evaluate=lambda model: {
            "temperature": model.temperature,
            "threshold": model.threshold,
            "best": sets.best,
            "seen": len(sets.seen),
        },
    )
"""
