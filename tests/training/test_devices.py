"""A job on several devices: killed anywhere and resumed, it ends with the same bits.

The devices are parts of the CPU (RUNNER_CPU_DEVICES), in processes of their own.
"""

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.checkpoint import packs
from runner.checkpoint.manifest import Manifest, Reference
from runner.checkpoint.reading import read_manifest
from tests.harness import Runner, assert_same, finish
from tests.training.killing import environment

#: another seed, other moments: RUNNER_CHAOS_SEED=7 make chaos
SEED = int(os.environ.get("RUNNER_CHAOS_SEED", "1"))
PROGRAM = """
import keras, numpy as np, runner

RATE = 0.01

def data(kind, x, y):
    if kind == "arrays":
        return {"x": x, "y": y, "batch_size": 16}
    if kind == "pipeline":
        import tensorflow as tf
        made = tf.data.Dataset.from_tensor_slices((x, y))
        made = made.shuffle(65, seed=3, reshuffle_each_iteration=False)
        return {"x": made.batch(16, drop_remainder=True)}
    return {"x": runner.Batches(x, y, batch_size=16, seed=1)}

def program(
    *, rows: int = 65, precision: str = "float32", synchronized: bool = False, plain: bool = False,
    steps: int | None = None,
    kind: str = "batches",
) -> runner.Program:
    keras.config.set_dtype_policy(precision)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6, 6, 1)).astype("float32")
    y = (x.sum((1, 2, 3)) > 0).astype("int32")
    flip = keras.layers.RandomFlip(seed=4)
    flip.supports_jit = keras.config.backend() == "jax"
    drawing = [flip, keras.layers.Dropout(0.2, seed=5)]
    statistics = keras.layers.BatchNormalization(synchronized=synchronized)
    model = keras.Sequential([
        keras.Input((6, 6, 1)),
        *([] if plain else drawing),
        keras.layers.Conv2D(4, 3),
        *([] if plain else [statistics]),
        keras.layers.GlobalMaxPooling2D(),
        keras.layers.Dense(2, "softmax", dtype="float32"),
    ])
    optimizer = keras.optimizers.Adam(RATE, gradient_accumulation_steps=steps)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return runner.Program(
        model=model,
        fit={
            **data(kind, x, y),
            "validation_data": (x[:17], y[:17]),
        },
        evaluate={"x": x, "y": y},
    )
"""


def backends() -> list[Any]:
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
            ),
        )
        for name in ("tensorflow", "jax")
    ]


pytestmark = pytest.mark.parametrize("backend", backends())


def runner_of(folder: Path, backend: str) -> Runner:
    """Return a store of its own, and the program to be trained in it."""
    code = folder / "code"
    (code / "programs").mkdir(parents=True)
    (code / "programs" / "small.py").write_text(PROGRAM)
    environment = {"RUNNER_CODE": str(code), "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    return Runner(folder / "store", environment, warm=True)


def submit(runner: Runner, *, epochs: int, devices: Any = "all", **arguments: Any) -> None:
    spec = {
        "name": "small",
        "program": {"name": "small", "arguments": arguments},
        "training": {"epochs": epochs, "devices": devices},
        "checkpoint": {"every": "3 steps"},
        "limits": {"deaths": 1000},
    }
    path = runner.store.parent / "small.json"
    path.write_text(json.dumps(spec))
    runner.ok("submit", str(path), "--detach")


def on(devices: int, runner: Runner) -> Runner:
    """Return the same store, on a machine with so many devices."""
    environment = {**(runner.environment or {}), "RUNNER_CPU_DEVICES": str(devices)}
    return Runner(runner.store, environment, warm=True)


def final(runner: Runner) -> Manifest:
    job = runner.job("small")
    assert job is not None
    assert job.final is not None
    return read_manifest(runner.queue().store, Reference.from_json(job.final).manifest)


VARIANTS: dict[tuple[str, int], dict[str, Any]] = {
    ("tensorflow", 2): {"precision": "mixed_float16"},
    ("tensorflow", 4): {"synchronized": True, "steps": 2},
    ("jax", 2): {"precision": "mixed_bfloat16"},
    ("jax", 4): {"steps": 2},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("devices", "kills", "epochs"),
    [(4, 3, 3), *(pytest.param(*one, marks=pytest.mark.chaos)
                  for one in ((2, 3, 3), (2, 20, 16), (4, 20, 16)))],
)  # fmt: skip
def test_killed_at_random_moments_and_the_same(
    tmp_path: Path, backend: str, devices: int, kills: int, epochs: int
) -> None:
    """Digest, History and evaluation, though the last batch is one example for all devices."""
    rng = random.Random(f"{SEED} {backend} {devices} {kills}")
    moments = [*(f"step:{n}" for n in range(1, 5)), "validation:1", "pack:1", "commit:1", "epoch:1"]
    deaths = rng.choices(moments, k=kills)
    print(deaths)  # shown where it fails
    found = []
    for name, kinds in (("one", ()), ("other", deaths)):
        runner = on(devices, runner_of(tmp_path / name, backend))
        submit(runner, epochs=epochs, **VARIANTS[backend, devices])
        found.append((runner, finish(runner, "small", *kinds)))
    (_, reference), (runner, status) = found
    assert_same(status, reference)
    values = [*reference["history"]["loss"], reference["evaluation"]["loss"]]
    assert np.isfinite(values).all()
    assert not [note for note in status["notes"] if "numerics" in note]
    assert final(runner).numerics["replicas"] == devices


@pytest.mark.timeout(900)
@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["arrays", "pipeline"])
def test_other_data_are_resumed_within_an_epoch_too(
    tmp_path: Path, backend: str, kind: str
) -> None:
    if kind == "pipeline":
        pytest.importorskip("tensorflow")
    found = []
    for name, deaths in (("one", ()), ("other", ("step:5",))):
        runner = on(4, runner_of(tmp_path / name, backend))
        submit(runner, epochs=2, kind=kind)
        found.append(finish(runner, "small", *deaths))
    assert np.isfinite(found[0]["history"]["loss"]).all()
    assert_same(found[1], found[0])


@pytest.mark.slow
def test_a_learning_rate_that_the_program_gives_now_counts(tmp_path: Path, backend: str) -> None:
    runner = on(2, runner_of(tmp_path, backend))
    submit(runner, epochs=1)
    assert runner.run("resume", "small", sabotage="step:5:2").returncode == -9
    code = Path((runner.environment or {})["RUNNER_CODE"], "programs", "small.py")
    code.write_text(PROGRAM.replace("RATE = 0.01", "RATE = 0.02"))
    notes = finish(runner, "small")["notes"]
    assert any("learning_rate 0.01 -> 0.02" in note for note in notes), notes


def test_from_four_devices_to_two_to_one(tmp_path: Path, backend: str) -> None:
    """It finishes, says each time what differs, and the metrics of the epoch are those of all."""
    runner = runner_of(tmp_path, backend)
    submit(runner, epochs=2, plain=True)
    for devices in (4, 2):
        died = on(devices, runner).run("resume", "small", sabotage="step:5:2")
        assert died.returncode == -9, died.stderr[-2000:]
    done = on(1, runner).run("resume", "small")
    assert done.returncode == 0, done.stderr[-2000:]
    status = runner.status("small")
    assert status["state"] == "succeeded"
    words = [note for note in status["notes"] if "continued on different numerics" in note]
    assert [note.partition("replicas ")[2] for note in words] == ["4 -> 2", "2 -> 1"]
    alone = on(1, runner_of(tmp_path / "alone", backend))
    submit(alone, epochs=2, plain=True)
    finish(alone, "small")
    found, expected = (np.array(one.status("small")["history"]["loss"]) for one in (runner, alone))
    # TensorFlow counts the one example of the last batch four times
    assert np.allclose(found, expected, rtol=0.1), (found, expected)


@pytest.mark.chaos
def test_the_batches_are_those_of_one_device(tmp_path: Path, backend: str) -> None:
    """Divided evenly, they give the same History but for the last bits."""
    losses = []
    for devices in (1, 4):
        runner = on(devices, runner_of(tmp_path / str(devices), backend))
        submit(runner, epochs=2, plain=True, rows=72)
        losses.append(finish(runner, "small")["history"]["loss"])
    assert np.allclose(losses[0], losses[1], rtol=1e-4), losses


@pytest.mark.slow
def test_what_replicas_share_is_stored_once(tmp_path: Path, backend: str) -> None:
    """And the statistics of a BatchNormalization, where each has its own, for each."""
    runner = on(2, runner_of(tmp_path, backend))
    submit(runner, epochs=1)
    finish(runner, "small")
    places, replicas = final(runner).tensors, 2 if backend == "tensorflow" else 1
    for part, stored in (("conv2d/kernel", 1), ("moving_mean", replicas)):
        found = [one for name, one in places.items() if name.startswith("model/") and part in name]
        assert len(found) == replicas
        assert len({(one.pack, one.offset) for one in found}) == stored, part
    for pack in final(runner).packs:
        data = (runner.store / pack.key).read_bytes()
        names = [name for name in packs.parse(data, len(data)) if name.startswith("model/")]
        assert len([name for name in names if "conv2d/kernel" in name]) <= 1, names


@pytest.mark.slow
def test_gradients_accumulated_with_a_loss_scale_are_refused(tmp_path: Path, backend: str) -> None:
    """On TensorFlow, which can't: with the remedy, and once."""
    runner = on(2, runner_of(tmp_path, backend))
    submit(runner, epochs=1, precision="mixed_float16", steps=2)
    done = runner.run("resume", "small")
    assert (done.returncode == 0) == (backend == "jax"), done.stderr[-2000:]
    if backend == "tensorflow":
        assert "use mixed_bfloat16, or leave training.devices out" in done.stderr
        assert runner.status("small")["state"] == "failed"


@pytest.mark.slow
def test_more_devices_than_a_worker_has_are_left_for_another(tmp_path: Path, backend: str) -> None:
    runner = runner_of(tmp_path, backend)
    submit(runner, epochs=1, devices=4)
    left = on(2, runner).run("resume", "small")
    assert left.returncode == 4
    assert "it needs 4 devices, this worker has 2" in left.stderr
    assert "a worker with 4 devices" in runner.ok("status", "small")
    assert finish(on(4, runner), "small")["state"] == "succeeded"


#: Keras's own, and how many of their fits there are at least
OF_KERAS = {
    "tensorflow": (("backend.tensorflow.distribute_test",), 2),
    "jax": (("backend.jax.distribution_lib_test", "backend.jax.trainer_test"), 4),
}


@pytest.mark.chaos
def test_keras_own_tests_of_distribution_pass_with_a_backup_in_the_list(backend: str) -> None:
    names, fits = OF_KERAS[backend]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.training.with_backup"),
            *("-c", os.devnull, "--rootdir=.", "-p", "no:cacheprovider"),  # not our settings
            *("--pyargs", *(f"keras.src.{name}" for name in names)),
        ],
        env={
            **environment(),
            "KERAS_BACKEND": backend,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "8",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    (saved, begun), *_ = re.findall(r"with a backup: (\d+) of (\d+) fits", done.stdout)
    assert saved == begun
    assert int(saved) >= fits
