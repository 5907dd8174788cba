"""The same trainings under KERAS_BACKEND=jax: killed and resumed, bit for bit, without TensorFlow.

Everything runs in processes of its own: the tests' own process may have TensorFlow beneath Keras.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import OFTEN, Runner, assert_same, finish, need, sets
from tests.training.killing import (
    ROOT,
    attempt,
    differences,
    environment,
    killed,
    undisturbed,
)
from tests.training.test_exact_resume import store_kill

pytest.importorskip("jax", reason="JAX is not installed: make test-jax")

COMPILED = {"jit_compile": True}


@pytest.fixture(scope="module", autouse=True)
def _jax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let every process of this module run on JAX, and compile what another has compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("JAX_PLATFORMS", os.environ.get("JAX_PLATFORMS") or "cpu")  # or "cuda"
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return undisturbed(tmp_path_factory.mktemp("reference") / "run", COMPILED)


def test_the_training_is_one_that_shows_faults(reference: dict[str, Any]) -> None:
    """Compiled, with random layers, a best epoch that is not the last, and a lowered rate."""
    assert reference["jit"]
    assert reference["best"] not in (None, reference["digest"])
    assert len(set(reference["history"]["learning_rate"])) > 1
    seeds = [name for name in reference["variables"] if "seed_generator_state" in name]
    assert len(seeds) == 5, seeds
    assert reference["saved"] == reference["variables"]


def test_eight_kills_in_one_training(tmp_path: Path, reference: dict[str, Any]) -> None:
    """Each attempt seeds everything differently: what is equal was restored."""
    kills = [
        {"kind": "batch_end", "at": 4},
        {"kind": "validation", "at": 0},
        store_kill("put", "packs/", 1, "after"),  # no manifest yet
        store_kill("put", "checkpoints/", 2, "after"),  # not committed
        {"kind": "epoch_end", "at": 1},
        store_kill("create", "log/", 2, "after"),  # committed, nothing cleaned up
        {"kind": "train_end", "at": 0},
        {"kind": "after_final", "at": 0},
    ]
    assert differences(reference, killed(tmp_path / "run", COMPILED, kills)) == []


def test_broken_restores_are_seen(tmp_path: Path, reference: dict[str, Any]) -> None:
    """The comparison has teeth: with other seeds and no checkpoint everything differs."""
    folder = tmp_path / "run"
    folder.mkdir()
    process = attempt(folder, COMPILED, number=1)
    assert process.returncode == 0, process.stderr[-3000:]
    other = json.loads((folder / "result.json").read_text())
    assert len(differences(reference, other)) > 20


MATRIX: dict[str, dict[str, Any]] = {
    "steps_per_execution 4, not dividing": {"steps_per_execution": 4},
    "bfloat16": {"precision": "mixed_bfloat16"},
    "float16, growing loss scale": {"precision": "mixed_float16", "loss_scale": True},
    "moving average": {"optimizer_arguments": {"use_ema": True, "ema_overwrite_frequency": 4}},
    "gradient accumulation": {"optimizer_arguments": {"gradient_accumulation_steps": 4}},
    "class and sample weights": {"class_weight": True, "sample_weight": True},
    "schedule": {"schedule": True},
    "not compiled": {"jit_compile": False, "augmentation": ["RandomFlip"]},
    "Muon": {"optimizer": "Muon"},
    "choices made while traced": {"augmentation": [["AugMix", {"value_range": [-1, 1]}]]},
}
IN_ALL_RUNS = {"steps_per_execution 4, not dividing", "choices made while traced"}


@pytest.mark.parametrize(
    "name",
    [name if name in IN_ALL_RUNS else pytest.param(name, marks=pytest.mark.chaos)
     for name in MATRIX],
)  # fmt: skip
def test_killed_twice_and_the_same(tmp_path: Path, name: str) -> None:
    options = {"epochs": 3, **COMPILED, **MATRIX[name]}
    expected = undisturbed(tmp_path / "reference", options)
    kills = [{"kind": "batch_end", "at": 4}, {"kind": "validation", "at": 1}]
    assert differences(expected, killed(tmp_path / "killed", options, kills)) == []


def test_a_job_is_trained_evaluated_and_exported_without_tensorflow(tmp_path: Path) -> None:
    """Killed in a step, in a pack, in the validation and in the evaluation; nobody imports it."""
    poison = tmp_path / "poison" / "tensorflow"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise AssertionError('TensorFlow was imported')")
    paths = [str(poison.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    if os.environ["JAX_PLATFORMS"] != "cpu":  # the harness hides the cards
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    spec = tmp_path / "job.json"
    spec.write_text(
        json.dumps(
            {
                "name": "small",
                "data": {"name": "digits"},
                "augmentation": {"flip": None, "rotation": 0.05, "zoom": 0.1},
                "model": {"name": "mlp"},
                "training": {
                    "epochs": 2,
                    "batch_size": 128,
                    "reduce_lr_on_plateau": {"monitor": "val_loss", "patience": 1},
                    "tensorboard": True,
                },
                "evaluation": {"augmented_passes": 2, "batch_size": 180},
            }
        )
    )
    undisturbed_one = Runner(tmp_path / "one", environment)
    assert "parameters" in undisturbed_one.run("validate", "--build", str(spec)).stderr
    undisturbed_one.ok("submit", str(spec), *sets(OFTEN))
    runner = Runner(tmp_path / "other", environment)
    died = runner.run("submit", str(spec), *sets(OFTEN), sabotage="step:5")
    assert died.returncode == -9, died.stderr[-2000:]
    status = finish(runner, "small", "pack:2", "validation:2", "evaluation:2")
    assert_same(status, undisturbed_one.status("small"))
    assert status["evaluation"]["top_1"] is not None
    boards = [tmp_path / n / "jobs/small/tensorboard/validation" for n in ("one", "other")]
    assert all(any(file.stat().st_size for file in board.iterdir()) for board in boards)
    runner.ok("export", "small", str(tmp_path / "model.keras"))
    assert (tmp_path / "model.keras").stat().st_size > 10_000
    for name in ("m.onnx", "m.tflite"):
        done = runner.run("export", "small", str(tmp_path / name))
        assert (done.returncode, "set KERAS_BACKEND=tensorflow" in done.stderr) == (2, True)


RESUMED = """
import time
import numpy as np, keras
from runner import BackupAndRestore
from runner.training.private import set_random_seed

class Stop(keras.callbacks.Callback):
    def get_state(self):
        return {}  # what it counts is of this attempt
    def set_state(self, state):
        pass
    def on_train_begin(self, logs=None):
        steps.clear()
    def on_train_batch_end(self, batch, logs=None):
        steps.append(batch)
        if stop:
            time.sleep(0.2)  # what is being saved is committed
            if len(steps) == 8:
                raise KeyboardInterrupt

x = np.random.default_rng(0).normal(size=(50, 4))
y = (x.sum(axis=1) > 0).astype(int)

def fit(folder, seed):
    set_random_seed(seed)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.3), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    backup = BackupAndRestore(folder, save_freq=1, delete_checkpoint=False)
    history = model.fit(**data(), epochs=3, verbose=0, callbacks=[Stop(), backup])
    return [w.tobytes() for w in model.get_weights()], history.history, backup.final.digest

stop, steps = False, []
expected = fit("one", 1)
stop = True
try:
    fit("other", 1)
except KeyboardInterrupt:
    stop = False
assert not stop
assert fit("other", 2) == expected
assert steps[0] > 0, "it began within an epoch"
assert fit("third", 2) != expected
"""


#: what is given to fit
DATA = {
    "arrays": """
def data():
    return {"x": x, "y": y, "batch_size": 10}
""",
    "pipeline": """
def data():
    import tensorflow as tf
    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(10)}
""",
    "endless pipeline": """
def data():
    import tensorflow as tf
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(9)
    return {"x": data, "steps_per_epoch": 4}
""",
}


@pytest.mark.parametrize("data", DATA)
def test_data_resume_at_any_step(tmp_path: Path, data: str) -> None:
    """Arrays are put in an order that a resume repeats, pipelines are skipped through."""
    if data != "arrays" and not importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is not installed")
    program = [sys.executable, "-c", DATA[data] + RESUMED]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


BAKED = """
import sys
import numpy as np, keras
from runner import BackupAndRestore, Batches

first, *stops = map(int, sys.argv[1:])

class Scale(keras.layers.Layer):
    factor = 1.0
    def call(self, x):
        return x * self.factor

class Sets(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch >= first:
            self.model.layers[0].factor = 3.0 + epoch
    def on_test_begin(self, logs=None):
        if self.model.layers[0].factor != 1.0:
            self.model.layers[0].factor += 0.5

class Stop(keras.callbacks.Callback):
    def __init__(self, at, backup):
        super().__init__()
        self.left, self.backup = at, backup
    def get_state(self):
        return {}
    def set_state(self, state):
        pass
    def on_train_batch_end(self, batch, logs=None):
        self.backup._takeover.loop.saving.checkpointer.wait()
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

x = np.random.default_rng(1).normal(size=(50, 4)).astype("float32")

def fit(folder, stop):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), Scale(), keras.layers.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"])
    callbacks = [Sets()]
    if folder:
        backup = BackupAndRestore(folder, save_freq=1, delete_checkpoint=False)
        callbacks += [Stop(stop, backup), backup]
    data = Batches(x, x[:, :2], batch_size=16, seed=1)
    history = model.fit(
        data, validation_data=(x, x[:, :2]), epochs=4, verbose=0, callbacks=callbacks
    )
    weights = [np.asarray(w).tobytes() for w in model.get_weights()]
    return weights, history.history, model.layers[0].factor

expected = fit(None, 0)
assert fit("whole", 0) == expected
for stop in stops:
    try:
        fit("killed", stop)
    except KeyboardInterrupt:
        continue
    raise AssertionError("it was not stopped")
assert fit("killed", 0) == expected
"""


@pytest.mark.parametrize(("first", "stops"), [(0, (3, 6, 2)), (2, (8,))])
def test_what_the_first_trace_has_baked_in_stays_after_a_resume(
    first: int, stops: tuple[int, ...], tmp_path: Path
) -> None:
    """A rate that a callback changes later reaches no compiled step, resumed or not."""
    program = [sys.executable, "-c", BAKED, *map(str, (first, *stops))]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


DONATED = """
import numpy as np, keras
from runner import Batches
from runner.training.state.variables import Variables

class Look(keras.callbacks.Callback):
    held = None
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            variables = Variables(self.model)
            self.held = variables.snapshot()
            self.then = [np.array(array, copy=True) for _, array in self.held]
        if batch == 6:
            self.now = [np.array(array, copy=True) for _, array in Variables(self.model).snapshot()]

model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.1), keras.layers.Dense(3)])
model.compile("adam", "mse", metrics=["mae"])
look = Look()
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
model.fit(Batches(x, x[:, :3], batch_size=8, seed=1), verbose=0, callbacks=[look])
same = [np.array_equal(a, np.asarray(b)) for a, (_, b) in zip(look.then, look.held)]
assert all(same), same
moved = [not np.array_equal(a, b) for a, b in zip(look.then, look.now)]
assert sum(moved) >= 8, list(zip([n for n, _ in look.held], moved))
assert all(np.array_equal(a.value, a.value) for a in model.variables)
"""


def test_a_snapshot_outlives_the_steps_that_take_its_arrays(tmp_path: Path) -> None:
    """It is of the step it was taken after, though the variables are empty in mid-epoch."""
    done = subprocess.run(
        [sys.executable, "-c", DONATED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


UNTRACKED = """
import numpy as np, keras
from runner import BackupAndRestore, Batches
from runner.training.shortcuts import Shortcuts

kinds = set()

class Look(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch:
            kinds.update(type(part).__name__ for part in self._model._jax_state.values())
        if batch == 3:
            self.model  # fills the variables

def fit(folder, together):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"], steps_per_execution=together)
    x = np.random.default_rng(1).normal(size=(100, 4)).astype("float32")
    data = Batches(x, x[:, :2], batch_size=16, seed=1)
    backup = BackupAndRestore(folder, save_freq=3, delete_checkpoint=False)
    history = model.fit(
        data, epochs=3, validation_data=(x, x[:, :2]), verbose=0, callbacks=[Look(), backup]
    )
    cells = [*model.train_function.__closure__, *model.test_function.__closure__]
    assert not any(getattr(cell.cell_contents, "__name__", "") == "step" for cell in cells)
    return backup.final.digest, history.history

quick = fit("one", 1), fit("two", 3)
assert kinds == {"Untracked"}, kinds
kinds.clear()
Shortcuts.take = lambda self, function: None
assert (fit("three", 1), fit("four", 3)) == quick
assert "Untracked" not in kinds, kinds
"""


def test_the_state_between_two_steps_is_not_looked_through(tmp_path: Path) -> None:
    """And what is computed is the same; nothing of it stays after the fit."""
    done = subprocess.run(
        [sys.executable, "-c", UNTRACKED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow beside JAX"
)
@pytest.mark.parametrize("backends", [("tensorflow", "jax"), ("jax", "tensorflow")])
def test_the_other_backend_goes_on_and_says_so(
    tmp_path: Path, backends: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backends[0])
    folder = tmp_path / "run"
    folder.mkdir()
    options = {"epochs": 2, **COMPILED, "augmentation": ["RandomFlip"]}
    assert attempt(folder, options, 0, {"kind": "batch_end", "at": 8}).returncode == -9
    monkeypatch.setenv("KERAS_BACKEND", backends[1])
    process = attempt(folder, options, 1)
    assert process.returncode == 0, process.stderr[-3000:]
    assert json.loads((folder / "result.json").read_text())["epochs"] == [0, 1]
    records = [path.read_text() for path in (folder / "backup/training/log").iterdir()]
    said = f"continued on different numerics: backend {backends[0]} -> {backends[1]}"
    assert any(said in text for text in records)


SETS = """
import jax
import keras
import numpy as np
import runner

def program(*, own: bool = False):
    if own:
        jax.config.update("jax_threefry_partitionable", False)
        jax.config.update("jax_default_matmul_precision", "bfloat16")
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_disable_jit", True)
    x = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")
    layers = [keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
    return runner.Program(model=model, fit={"x": x, "y": x[:, :1], "batch_size": 16})
"""


def test_what_a_job_sets_of_jax_is_undone_after_it(tmp_path: Path) -> None:
    """The next job of the same worker is trained as in a new process."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/sets.py").write_text(SETS)
    jobs: list[dict[str, Any]] = [
        {"name": "before"},
        {"name": "own", "program.arguments.own": True},
        {"name": "later"},
    ]
    spec = {"name": "-", "program": {"name": "sets"}, "training": {"epochs": 1}, "sweep": jobs}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    runner = Runner(tmp_path / "store", {"RUNNER_CODE": str(tmp_path)})
    runner.ok("submit", str(tmp_path / "job.json"), "--no-trial")
    before, own, later = (runner.queue().job(job["name"]) for job in jobs)
    assert [job.state.value for job in (before, own, later)] == ["succeeded"] * 3
    digests = [(job.final or {})["digest"] for job in (before, own, later)]
    assert digests[0] == digests[2] != digests[1]
    assert not [note for note in later.notes if "different" in note]


def test_other_backends_are_refused_in_words(tmp_path: Path) -> None:
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    done = subprocess.run(
        [sys.executable, "-c", "from runner.training.quiet import import_keras as i; i()"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "KERAS_BACKEND is numpy; runner trains with tensorflow and jax." in done.stderr


def test_a_drill_sees_batches_of_grain(tmp_path: Path) -> None:
    """What Keras iterates there is no iterator itself."""
    need("grain")
    program = [sys.executable, str(Path(__file__).with_name("kinds_of_data.py"))]
    options = [str(tmp_path / "place"), json.dumps({"kind": "IterDataset"})]
    done = subprocess.run(
        [sys.executable, "-m", "runner", "drill", "--kills", "1", "--", *program, *options],
        cwd=ROOT,
        env=environment() | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "IDENTICAL, killed once: batches, variables" in done.stdout, done.stderr[-3000:]
