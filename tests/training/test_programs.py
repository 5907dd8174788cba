"""Programs of a user's own as jobs: stopped and resumed, with the same bits."""

import io
import json
import os
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from runner import code, specfile
from runner.checkpoint.reading import read_manifest
from runner.errors import TrainingError
from runner.evaluation.export import export
from runner.evaluation.measure import measure
from runner.training import numerics
from runner.training.backends import tensorflow_settings
from runner.training.host import Alone
from runner.training.programs import make
from runner.training.restore import restored_program
from tests.harness import REPOSITORY, few
from tests.training.program_files import (
    ATTRIBUTES,
    BATCHES,
    HEAD,
    PIPELINE,
    finished,
    results,
    spec_of,
    write,
)

ARRAYS = """
class Counts(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []
    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(logs["loss"])
        if len(self.seen) == 9:
            self.model.optimizer.learning_rate.assign(1e-4)

def program(*, seed):
    x, y = made(seed)
    model = network(last=2, activation=None)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return runner.Program(
        model=model,
        fit={
            "x": x, "y": y, "batch_size": 20, "validation_split": 0.2,
            "class_weight": {0: 2.0, 1: 1.0},
        },
        callbacks=[Counts()],
        evaluate=lambda model: {
            "first": model.predict(x[:1], verbose=0)[0, 0],
            "all": model.predict(x, verbose=0),
        },
    )
"""


OWN_STEP = """
class Gan(keras.Model):
    def __init__(self):
        super().__init__()
        self.one = keras.layers.Dense(4)
        self.other = keras.layers.Dense(1)
        self.noise = keras.random.SeedGenerator(5)
        self.loss_of_one = keras.metrics.Mean("one")
    def compile(self, one, other):
        super().compile()
        self.o1, self.o2 = one, other
    def train_step(self, x):
        import tensorflow as tf
        for optimizer, layer in ((self.o1, self.one), (self.o2, self.other)):
            with tf.GradientTape() as tape:
                z = keras.random.normal((16, 4), seed=self.noise)
                loss = keras.ops.mean((self.other(self.one(z)) - self.other(x)) ** 2)
            optimizer.apply(tape.gradient(loss, layer.trainable_weights), layer.trainable_weights)
        self.loss_of_one.update_state(loss)
        seen = keras.ops.sum(self.other(self.one(made()[0])))
        return {"one": self.loss_of_one.result(), "sum": seen}

def program():
    x, _ = made()
    model = Gan()
    model.compile(keras.optimizers.Adam(1e-2), keras.optimizers.SGD(1e-2, momentum=0.9))
    return runner.Program(
        model=model,
        fit={"x": runner.Batches(x, batch_size=16, seed=1)},
        evaluate=lambda model: {"sum": float(keras.ops.sum(model.other(model.one(x))))},
    )
"""


PROGRAMS = {"batches": BATCHES, "arrays": ARRAYS, "pipeline": PIPELINE, "own_step": OWN_STEP}
#: one whose data are sought and one whose variables come with its first step; the others are slow
FEW = [
    name if name in ("batches", "own_step") else pytest.param(name, marks=pytest.mark.slow)
    for name in PROGRAMS
]


@pytest.mark.parametrize("name", FEW)
def test_a_program_that_was_stopped_ends_with_the_same_bits(folder: Path, name: str) -> None:
    """Within an epoch and at its end; its evaluation is the same too."""
    write(folder, PROGRAMS[name])
    whole = results(*finished(spec_of()))
    assert results(*finished(spec_of(), 4, 9, 3, 3, 5, 2)) == whole
    assert whole[2]


@pytest.mark.parametrize(
    ("name", "metric", "seen"),
    few([("batches", "loss", "val_loss"), ("own_step", "sum", "sum")], 1),
)
def test_what_is_evaluated_is_the_trained_model(
    folder: Path, name: str, metric: str, seen: str
) -> None:
    """Also one whose variables come with fit: the results are those of the training's end."""
    write(folder, PROGRAMS[name].replace("made(2)", "made(1)"))
    queue, job = finished(spec_of())
    history = read_manifest(queue.store, job.final["manifest"]).history[seen]
    assert job.evaluation[metric] == pytest.approx(history[-1], rel=1e-5)
    assert history[-1] != pytest.approx(history[0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["descriptions", "diabetes"])
def test_the_programs_of_the_package(name: str) -> None:
    changes = ["training.epochs=2", "training.threads=1", 'checkpoint.every="2 steps"']
    spec = specfile.load(REPOSITORY / "jobs" / f"{name}.json", changes)
    whole = results(*finished(spec))
    assert results(*finished(spec, 5, 9, 6)) == whole
    assert whole[2]["r2" if name == "diabetes" else "accuracy"] < 1


@pytest.mark.slow
def test_data_that_cant_be_sought_are_saved_at_the_ends_of_epochs_alone(folder: Path) -> None:
    """Also when it is asked to stop within one: no attempt could take that up."""
    drawn = ".map(lambda x, y: (tf.random.shuffle(x), y)).batch(16)"
    write(folder, PIPELINE.replace(".batch(16)", drawn))
    queue, job = finished(spec_of(), 4, 9)
    assert job.state.value == "succeeded"
    assert len(read_manifest(queue.store, job.final["manifest"]).history["loss"]) == 3


@pytest.mark.slow
def test_arguments_and_seed_reach_the_program(folder: Path) -> None:
    write(folder, ARRAYS)
    digests = {results(*finished(spec_of(seed=seed)))[0] for seed in (1, 1, 2)}
    assert len(digests) == 2


@pytest.mark.slow
def test_other_code_in_mid_training_is_said(folder: Path) -> None:
    """By its files' contents; the record names the code that the job began with."""
    path = write(folder, BATCHES)

    def edit() -> None:
        path.write_text(path.read_text() + "\n# another line\n")

    _, job = finished(spec_of(), 9, between=edit)
    began, continued = [note for note in job.notes if "programs/mine.py" in note]
    assert re.match(r"trained by programs/mine\.py [0-9a-f]{12}", began)
    assert re.match(
        r"continued on different code: programs/mine\.py (\w+) -> programs/mine\.py (?!\1)\w+",
        continued,
    )


@pytest.mark.slow
def test_what_a_file_imports_beside_it_is_part_of_its_code(folder: Path) -> None:
    (folder / "programs" / "helper.py").write_text("A = 1\n")
    write(folder, f"from helper import A\n{BATCHES}")
    code.forget()
    _, job = finished(spec_of(training={"epochs": 1}))
    assert any("helper.py" in note and "mine.py" in note for note in job.notes)
    (folder / "programs" / "other.py").write_text("import helper\n")
    assert "other.py" not in code.identity()


def test_classes_bring_confusion_and_calibration(folder: Path) -> None:
    """Also where the model ends in one sigmoid."""
    write(folder, BATCHES)
    queue, job = finished(spec_of())
    with np.load(io.BytesIO(queue.store.read(job.evaluation["npz"]) or b"")) as arrays:
        labels = np.random.default_rng(2).normal(size=(96, 4)).astype("float32").sum(1) > 0
        assert (arrays["labels"] == labels).all()
        assert arrays["probabilities"].sum(axis=1) == pytest.approx(1)
        right = (arrays["probabilities"][:, 1] > 0.5) == labels
        assert job.evaluation["top_1"] == right.mean() == np.trace(arrays["confusion"]) / 96
    assert "expected_calibration_error" in job.evaluation
    assert {"loss", "mae"} <= job.evaluation.keys()


@pytest.mark.parametrize("names", few([["low"], ["low", "mid", "high"]], 1))
def test_classes_that_are_not_the_models_are_refused(folder: Path, names: list[str]) -> None:
    write(folder, BATCHES.replace('["low", "high"]', str(names)))
    with pytest.raises(TrainingError, match=rf"names {len(names)} classes, .* tells 2 apart"):
        finished(spec_of(training={"epochs": 1}))


@pytest.mark.slow
def test_a_functions_own_number_of_parameters_counts(folder: Path) -> None:
    write(folder, ARRAYS.replace('"first":', '"parameters": 5.0, "first":'))
    assert finished(spec_of(training={"epochs": 1}))[1].evaluation["parameters"] == 5.0


def test_numbers_and_arrays_of_a_function(folder: Path) -> None:
    write(folder, ARRAYS)
    queue, job = finished(spec_of())
    with np.load(io.BytesIO(queue.store.read(job.evaluation["npz"]) or b"")) as arrays:
        assert arrays["all"].shape == (96, 2)
        assert arrays["all"][0, 0] == pytest.approx(job.evaluation["first"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_best_checkpoint_is_restored_for_evaluation(folder: Path, name: str) -> None:
    """Also into a model whose variables come with fit."""
    write(folder, PROGRAMS[name])
    queue, job = finished(spec_of())
    found = [
        measure(restored_program(queue.store, spec_of(), one)[0], Alone()).metrics
        for one in (job.final, job.final, job.checkpoints[-1])
    ]
    assert found[0] == found[1]
    known = {k: v for k, v in job.evaluation.items() if k in found[0]}
    assert known == {k: v for k, v in found[0].items() if k in known}


LEAKING = """
import os, warnings
import tensorflow as tf
keras.config.set_dtype_policy("mixed_bfloat16")
tf.config.optimizer.set_jit("autoclustering")
""" + BATCHES.replace(
    "    x, y = made()\n",
    """
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(1e-2)
    keras.config.set_image_data_format("channels_first")
    tf.config.run_functions_eagerly(True)
    tf.config.optimizer.set_experimental_options({"constant_folding": False})
    tf.config.experimental.enable_tensor_float_32_execution(False)
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")
    os.environ["LEFT_BEHIND"] = "yes"
    os.chdir("/")
    x, y = made()
""",
)


@pytest.mark.slow
def test_what_a_job_sets_of_its_process_is_undone_after_it(folder: Path) -> None:
    """The jobs that a worker takes next are trained as in a new process."""
    write(folder, BATCHES, "plain")
    write(folder, LEAKING, "leaking")
    plain, leaking = (spec_of(program={"name": name}) for name in ("plain", "leaking"))
    before = results(*finished(plain))
    here, known = Path.cwd(), (np.geterr(), warnings.filters[:])
    assert results(*finished(leaking))[0] != before[0]
    assert (Path.cwd(), os.environ.get("LEFT_BEHIND")) == (here, None)
    assert results(*finished(plain)) == before
    assert (np.geterr(), warnings.filters[:]) == known
    assert not numerics.fingerprint().keys() & {"jit", "eager_functions", "tf32", "floatx"}
    assert not tensorflow_settings.not_default(gpu=True)


def test_the_precision_that_a_file_sets_at_its_top_counts(folder: Path) -> None:
    """In each attempt, and for its own jobs alone."""
    path = write(folder, 'keras.config.set_dtype_policy("mixed_bfloat16")\n' + BATCHES)
    assert make(spec_of()).model.dtype_policy.name == "mixed_bfloat16"
    assert make(spec_of()).model.dtype_policy.name == "mixed_bfloat16"
    path.write_text(HEAD + BATCHES)
    numerics.apply(threads=1)
    assert make(spec_of()).model.dtype_policy.name == "float32"


@pytest.mark.parametrize("own", few([True, False], 1))
def test_attributes_that_callbacks_set_are_there_when_it_is_evaluated(
    folder: Path, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a class of the user's own, which fit builds, and on Keras's; no callback is called."""
    monkeypatch.chdir(folder)
    write(folder, ATTRIBUTES)
    spec = spec_of(program={"name": "mine", "arguments": {"own": own, "late": own}})
    _, job = finished(spec)
    found = {key: job.evaluation[key] for key in ("temperature", "threshold", "best", "seen")}
    assert found == {"temperature": 5.0, "threshold": 0.75, "best": 2, "seen": 3}
    assert len((folder / "log.csv").read_text().splitlines()) == 4


ANNEALED = """
@keras.saving.register_keras_serializable()
class Scaled(keras.layers.Layer):
    def __init__(self, temperature=1.0, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature
    def call(self, x):
        return x * self.temperature
    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}

class Anneals(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.layers[-1].temperature = 3.0 + epoch
        self.model.layers[1].rate = 0.125

def program():
    x, y = made()
    model = network()
    model.add(Scaled())
    model.compile("adam", "mse")
    return runner.Program(model=model, fit={"x": x, "y": y}, callbacks=[Anneals()])
"""


@pytest.mark.slow
def test_attributes_that_callbacks_set_are_exported(folder: Path) -> None:
    """On a layer of the user's own, and on Keras's: not what the program begins with."""
    write(folder, ANNEALED)
    queue, job = finished(spec_of())
    assert job.final is not None
    export(queue.store, job, spec_of().effective(), job.final, folder / "m.keras", ".keras")
    with zipfile.ZipFile(folder / "m.keras") as file:
        layers = json.loads(file.read("config.json"))["config"]["layers"]
    found = {one["class_name"].rpartition(">")[2]: one["config"] for one in layers}
    assert (found["Scaled"]["temperature"], found["Dropout"]["rate"]) == (5.0, 0.125)


@pytest.mark.slow
def test_every_number_of_an_evaluation_is_stored_as_json_has_it(folder: Path) -> None:
    """What is not finite is null, in the job's record too; an array keeps it."""
    found = """{
        "nan": float("nan"), "inf": np.float32("inf"), 3: np.float16(0.5), "yes": np.True_,
        "long": np.longdouble(0.25), "int": np.array(7), "half": keras.ops.cast(1.5, "bfloat16"),
        "array": np.array([1.0, np.nan]),
    }"""
    write(
        folder, BATCHES.replace('evaluate=dict(zip("xy", made(2)))', f"evaluate=lambda _: {found}")
    )
    queue, job = finished(spec_of(training={"epochs": 1}))
    stored = queue.store.read(job.evaluation["json"]) or b""
    document = json.loads(stored, parse_constant=pytest.fail)
    numbers = {"3": 0.5, "yes": True, "long": 0.25, "int": 7, "half": 1.5}
    expected = {"nan": None, "inf": None, **numbers, "parameters": 49}
    assert job.results == expected
    assert document.items() >= expected.items()
    with np.load(io.BytesIO(queue.store.read(job.evaluation["npz"]) or b"")) as arrays:
        assert arrays.files == ["array"]
        assert np.isnan(arrays["array"]).tolist() == [False, True]
