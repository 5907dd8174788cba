"""Programs of the user's own: stopped anywhere and resumed, they end with the same bits."""

import io
import json
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner import code, specfile
from runner import spec as specs
from runner.checkpoint.manifest import Reference
from runner.checkpoint.reading import read_manifest
from runner.engine.requirements import missing_here
from runner.engine.stages import run_stage
from runner.errors import MissingHereError, PreemptedError, SpecError, TrainingError
from runner.evaluation.export import export
from runner.evaluation.measure import measure
from runner.evaluation.trial import build_report
from runner.queue.lease import Lease
from runner.queue.queue import Queue
from runner.queue.record import OF_THE_RUN
from runner.store.base import Store
from runner.training import numerics
from runner.training.backends import tensorflow_settings
from runner.training.host import Alone, Host
from runner.training.program import Program
from runner.training.programs import make
from runner.training.restore import restored_program
from tests.harness import REPOSITORY
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the user's code."""
    (tmp_path / "programs").mkdir()
    monkeypatch.setenv(code.VARIABLE, str(tmp_path))
    yield tmp_path
    code.forget()


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


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_was_stopped_ends_with_the_same_bits(folder: Path, name: str) -> None:
    """Within an epoch and at its end; its evaluation is the same too."""
    write(folder, PROGRAMS[name])
    whole = results(*finished(spec_of()))
    assert results(*finished(spec_of(), 4, 9, 3, 3, 5, 2)) == whole
    assert whole[2]


@pytest.mark.parametrize(
    ("name", "metric", "seen"), [("batches", "loss", "val_loss"), ("own_step", "sum", "sum")]
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


@pytest.mark.parametrize("name", ["descriptions", "diabetes"])
def test_the_programs_of_the_package(name: str) -> None:
    changes = ["training.epochs=2", "training.threads=1", 'checkpoint.every="2 steps"']
    spec = specfile.load(REPOSITORY / "jobs" / f"{name}.json", changes)
    whole = results(*finished(spec))
    assert results(*finished(spec, 5, 9, 6)) == whole
    assert whole[2]["r2" if name == "diabetes" else "accuracy"] < 1


def test_data_that_cant_be_sought_are_saved_at_the_ends_of_epochs_alone(folder: Path) -> None:
    """Also when it is asked to stop within one: no attempt could take that up."""
    drawn = ".map(lambda x, y: (tf.random.shuffle(x), y)).batch(16)"
    write(folder, PIPELINE.replace(".batch(16)", drawn))
    queue, job = finished(spec_of(), 4, 9)
    assert job.state.value == "succeeded"
    assert len(read_manifest(queue.store, job.final["manifest"]).history["loss"]) == 3


def test_arguments_and_seed_reach_the_program(folder: Path) -> None:
    write(folder, ARRAYS)
    digests = {results(*finished(spec_of(seed=seed)))[0] for seed in (1, 1, 2)}
    assert len(digests) == 2


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


@pytest.mark.parametrize("names", [["low"], ["low", "mid", "high"]])
def test_classes_that_are_not_the_models_are_refused(folder: Path, names: list[str]) -> None:
    write(folder, BATCHES.replace('["low", "high"]', str(names)))
    with pytest.raises(TrainingError, match=rf"names {len(names)} classes, .* tells 2 apart"):
        finished(spec_of(training={"epochs": 1}))


def test_a_functions_own_number_of_parameters_counts(folder: Path) -> None:
    write(folder, ARRAYS.replace('"first":', '"parameters": 5.0, "first":'))
    assert finished(spec_of(training={"epochs": 1}))[1].evaluation["parameters"] == 5.0


def test_numbers_and_arrays_of_a_function(folder: Path) -> None:
    write(folder, ARRAYS)
    queue, job = finished(spec_of())
    with np.load(io.BytesIO(queue.store.read(job.evaluation["npz"]) or b"")) as arrays:
        assert arrays["all"].shape == (96, 2)
        assert arrays["all"][0, 0] == pytest.approx(job.evaluation["first"], abs=1e-6)


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


@pytest.mark.parametrize("own", [True, False])
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


def test_a_job_without_an_evaluation_ends_with_its_training(folder: Path) -> None:
    write(folder, re.sub(r"        evaluate=.*\n", "", BATCHES))
    _, job = finished(spec_of())
    assert job.state.value == "succeeded"
    assert job.evaluation is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("model.compile", "model.summary; (lambda *a, **k: 0)"), "is not compiled"),
        (("return runner.Program", "return dict"), "no runner.Program"),
        (('fit={"x"', 'fit={"epochs": 3, "x"'), "training.epochs"),
        (('"validation_data"', '"validation_date"'), "Did you mean 'validation_data'?"),
        (("evaluate=dict", "evaluate=list"), "evaluate"),
        (('evaluate=dict(zip("xy", made(2)))', "evaluate={}"), 'evaluate=...) has no "x"'),
        (('zip("xy", made(2))', 'zip("xy", made(2)), steps=0'), '"steps" 0; expected at least 1'),
        (('classes=["low", "high"]', "classes=2"), "classes=...) received"),
        (('classes=["low", "high"]', "callbacks=None"), "callbacks=...) received"),
        (('classes=["low", "high"]', 'classes="ab"'), "classes=...) received"),
        (("x, y = made()", "open('no.csv')"), "'no.csv' (programs/mine.py, line"),
    ],
)
def test_mistakes_of_a_program(folder: Path, changed: tuple[str, str], said: str) -> None:
    """Each names what was given, and the line of the user's own file."""
    text = BATCHES.replace(*changed)
    assert text != BATCHES
    write(folder, text)
    with pytest.raises(SpecError, match=re.escape(said)):
        finished(spec_of())


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("{'a': [[1], [2, 3]]}", "the evaluation's 'a' is no array"),
        ("{'a': 1j}", "the evaluation's 'a' is a complex; expected numbers"),
        ("{'a': None}", "the evaluation's 'a' is None; expected numbers"),
        ("{'a': ['x']}", "the evaluation's 'a' is of the type <U1; expected numbers"),
        ("[1]", r"evaluate\(model\) returned a list; expected numbers by name"),
        ("{1: 2, '1': 3}", "two results of the name '1'"),
        ("{'json': 1, 'npz': [2], 'x': 3}", "can't name a result 'json', 'npz': runner's own"),
        ("{'timing': 1}", "can't name a result 'timing'"),
        (
            "{'probabilities': np.eye(2), 'labels': [0, 1], 'confusion': np.eye(2)}",
            "can't name a result 'confusion'",
        ),
        ("{'probabilities': np.eye(2) / 0, 'labels': [0, 1]}", "probabilities are not finite"),
        ("{'probabilities': np.ones((4, 2)) / 2, 'labels': [0, 1, 1]}", "3 'labels' between 0 and"),
        ("{'probabilities': np.ones((2, 2)) / 2, 'labels': [0, 7]}", "2 'labels' between 0 and 7"),
    ],
)
def test_results_that_dont_fit_are_named(folder: Path, found: str, said: str) -> None:
    """And tried once: the same again would end the same."""
    write(
        folder, BATCHES.replace('evaluate=dict(zip("xy", made(2)))', f"evaluate=lambda _: {found}")
    )
    with pytest.raises(TrainingError, match=said):
        measure(make(spec_of()), Alone())


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


VECTOR = """
class Vector(keras.metrics.Metric):
    def update_state(self, *args, **kwargs): pass
    def result(self): return keras.ops.ones((3,))
"""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            ("made(1)", "tuple(one[:0] for one in made(1))"),
            '"validation_data": ...} has no example. (programs/mine.py, line 23)',
        ),
        (("made(2)", "[one[:0] for one in made(2)]"), 'evaluate={"x": ...} has no example'),
        (
            ("made(1)", "(np.full((9, 4), 'text'), np.zeros(9))"),
            "Invalid dtype: str128: an array of texts must be array.astype(object), or "
            "tf.constant(array) (programs/mine.py, line 23)",
        ),
        (('metrics=["mae"]', "metrics=[Vector(name='v')]"), "the metric 'v' gives 3 numbers"),
    ],
)
def test_what_can_never_be_trained_is_told_by_the_trial(
    folder: Path, changed: tuple[str, str], said: str
) -> None:
    write(folder, VECTOR + BATCHES.replace(*changed))
    with pytest.raises(SpecError, match=re.escape(said)):
        build_report(spec_of(), source="job.json")


EVALUATED = """
def judge(model):
    x, y = made(2)
    RESULT
""" + BATCHES.replace('evaluate=dict(zip("xy", made(2)))', "evaluate=judge")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("return 'good'", "returned a str; expected numbers by name. (programs/mine.py, line 19)"),
        ("pass", "returned None; expected numbers by name. (programs/mine.py, line 19)"),
        ("return {'a': 'b'}", "'a' is a str; expected numbers. (programs/mine.py, line 19)"),
        ("return {'a': y[200]}", "IndexError: index 200 is out of bounds for axis 0 with size 96 "
         "(programs/mine.py, line 21: return {'a': y[200]})"),
        ("raise SystemExit", "SystemExit:  (programs/mine.py, line 21: raise SystemExit)"),
        ("return {'probabilities': np.ones((96, 3)) / 3, 'labels': y}",
         "names 2 classes, but the model tells 3 apart. (programs/mine.py, line 19)"),
    ],
)  # fmt: skip
def test_an_evaluation_that_would_fail_is_told_by_the_trial(
    folder: Path, result: str, said: str
) -> None:
    """Not after hours of training; with the user's own line."""
    write(folder, EVALUATED.replace("RESULT", result))
    with pytest.raises(SpecError) as told:
        build_report(spec_of(), source="job.json")
    assert str(told.value).startswith("job.json: ")
    assert said in str(told.value)
    build_report(spec_of(evaluation=None), source="job.json")  # it will not be called


def test_the_trial_compares_the_classes_with_what_the_model_tells_apart(folder: Path) -> None:
    """On one batch: the rest of the data is not looked at."""
    write(folder, BATCHES.replace('["low", "high"]', '["low", "mid", "high"]'))
    with pytest.raises(SpecError, match=r"3 classes, but .* 2 apart\. \(programs/mine\.py, line "):
        build_report(spec_of(), source="job.json")
    write(folder, PIPELINE.replace('"x": data, "steps": 3', '"x": once(data)') + """
def once(data):
    def batches():
        yield from data.take(5)
        raise RuntimeError("a later batch")
    return batches()
""")  # fmt: skip
    assert "one step: loss" in build_report(spec_of(), source="job.json")


def test_what_callbacks_may_set_for_an_evaluation_is_only_doubted_by_the_trial(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    write(folder, ATTRIBUTES)
    said = build_report(spec_of(), source="job.json")
    assert "; its evaluation fails before it is trained: AttributeError: " in said
    assert "(programs/mine.py, line " in said


def test_a_trial_changes_nothing_of_what_the_same_process_trains(folder: Path) -> None:
    """Whatever its evaluation draws, assigns and sets."""
    upsets = """keras.random.normal((3,)), np.random.rand(), random.random()
    model.optimizer.learning_rate.assign(1.0)
    model.layers[0].kernel.assign(np.zeros((4, 8)))
    keras.config.set_floatx("float16")
    made.__defaults__ = (9,)
    return {"a": 1.0}"""
    write(folder, "import random\n" + EVALUATED.replace("RESULT", upsets))
    before = results(*finished(spec_of()))
    build_report(spec_of(), source="job.json")
    assert results(*finished(spec_of())) == before


def test_a_machine_without_the_program_leaves_its_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, BATCHES)
    spec = spec_of()
    monkeypatch.delenv(code.VARIABLE)
    with pytest.raises(MissingHereError, match="'mine' is not in runner/programs"):
        make(spec)
    lacks = missing_here(spec.effective(), "file:///store")
    assert lacks.startswith("it has no program 'mine' (program 'mine' is not in runner/programs.")


FIT = 'fit={"x": runner.Batches(x, y, batch_size=16, seed=1), "validation_data": made(1)}'
SEQUENCE = """
class Files(keras.utils.PyDataset):
    def __len__(self):
        return 5
    def __getitem__(self, index):
        return (np.load("/nowhere/x.npy") if index > NUMBER else np.ones((2, 4))), np.ones(2)
"""


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("    open('no.csv')", "FileNotFoundError: [Errno 2]"),
        ("    raise ConnectionResetError('peer')", "ConnectionResetError: peer"),
        ("    raise ImportError('libGL.so.1')", "ImportError: libGL.so.1"),
        ("    import os; os.environ['NOT_HERE']", "KeyError: 'NOT_HERE'"),
        ("    keras.utils.get_file('x.bin', 'http://127.0.0.1:9/x')", "URL fetch failure"),
        ("evaluate=lambda model: open('/nowhere/x.csv')", "/nowhere/x.csv"),
        ("evaluate=lambda model: __import__('not_here')", "No module named 'not_here'"),
        ("records", "/nowhere/x.tfrecord; No such file"),
        ("-1", "/nowhere/x.npy"),
        ("2", "/nowhere/x.npy"),
    ],
)
def test_what_a_machine_lacks_leaves_the_job_to_others(
    folder: Path, instead: str, said: str
) -> None:
    """In the function, its data and its evaluation alike; the user's own line is told."""
    if instead.startswith("    "):
        text = BATCHES.replace("    x, y = made()", f"{instead}\n    x, y = made()")
    elif instead.startswith("evaluate"):
        text = BATCHES.replace('evaluate=dict(zip("xy", made(2)))', instead)
    elif instead == "records":
        data = "tf.data.TFRecordDataset('/nowhere/x.tfrecord').map(lambda _: (tf.ones(4), 1))"
        text = f"import tensorflow as tf\n{BATCHES}".replace(FIT, f"fit={{'x': {data}.batch(2)}}")
    else:
        text = SEQUENCE.replace("NUMBER", instead) + BATCHES.replace(FIT, "fit={'x': Files()}")
    write(folder, text)
    with pytest.raises(MissingHereError, match=re.escape(said)) as caught:
        finished(spec_of(training={"epochs": 1}, checkpoint={}))
    assert instead in ("records", "2") or "(programs/mine.py, line " in str(caught.value)


@pytest.mark.parametrize(
    "raised", [ValueError("mine"), KeyError("mine"), MemoryError("mine"), SystemExit(0)]
)
def test_other_exceptions_of_a_program_are_raised_as_they_are(
    folder: Path, raised: BaseException
) -> None:
    """They count as a failed attempt, and are tried again."""
    write(folder, f"def program():\n    raise {raised!r}\n")
    with pytest.raises(type(raised)):
        make(spec_of())


def test_what_the_program_decides_is_refused_in_the_spec(folder: Path) -> None:
    write(folder, BATCHES)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"data": {"name": "digits"}}, "data is set"),
        ({"optimizer": {"learning_rate": 0.1}}, "optimizer is set"),
        ({"training": {"batch_size": 3}}, "training.batch_size is set"),
        ({"training": {"jit_compile": True}}, "training.jit_compile .* give it to model.compile"),
        (
            {"training": {"phases": [{"epochs": 1}]}},
            'training.phases .* for images: make each phase a job .*"take": "weights"',
        ),
        ({"evaluation": {"augmented_passes": 3}}, "evaluation.augmented_passes is set"),
    ]
    for parts, field in refused:
        with pytest.raises(SpecError, match=field):
            spec_of(**parts)
    effective = spec_of().effective()
    assert "data" not in effective
    assert "batch_size" not in effective["training"]
    assert specs.parse(effective, source="again").effective() == effective


def test_no_code_outside_the_folder_is_an_entry(folder: Path) -> None:
    """A spec's name is no path."""
    (folder / "outside.py").write_text("def program():\n    raise SystemExit\n")
    for name in ("../outside", "..outside", "/etc/passwd", "mine/../../outside"):
        with pytest.raises(SpecError, match="is not in"):
            spec_of(program={"name": name})


def test_a_crash_shows_the_users_own_lines(folder: Path) -> None:
    """Not those of runner and Keras."""
    path = write(folder, 'def program():\n    raise RuntimeError("mine")\n')
    made = code.load(path)
    with pytest.raises(RuntimeError) as caught:
        made.program()
    line = len(HEAD.splitlines()) + 2
    assert code.where(caught.value) == f'programs/mine.py, line {line}: raise RuntimeError("mine")'
    shown = code.traceback_of(caught.value)
    assert shown.count("File ") == 1
    assert str(path) in shown
    assert "test_programs.py" in code.traceback_of(RuntimeError("x").with_traceback(here()))


def test_an_error_is_told_on_one_line_without_escape_codes() -> None:
    assert code.words(ValueError("a\nb\n \x1b[31;1mred\x1b[K")) == "ValueError: a b red"


def here() -> Any:
    """A traceback of no user's code."""
    try:
        raise RuntimeError
    except RuntimeError as error:
        return error.__traceback__


def test_a_fit_of_the_models_own_may_name_only_some_arguments() -> None:
    """And pass the others on, as KerasHub's do."""

    class Own(keras.Sequential):  # type: ignore[misc]
        def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
            return super().fit(x, y, **kwargs)

    model = Own([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = {"x": np.ones((4, 1)), "y": np.ones(4)}
    Program(model=model, fit={**data, "shuffle": False, "class_weight": {0: 1.0}})
    with pytest.raises(SpecError, match="Did you mean 'shuffle'"):
        Program(model=model, fit={**data, "shufle": False})


def test_a_folder_that_holds_runner_and_python_too_is_none_of_theirs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--code .` in a clone: else runner itself would be imported anew, and be the user's code."""
    write(folder, BATCHES)
    made = make(spec_of())
    for root in (REPOSITORY, Path("/")):
        monkeypatch.setenv(code.VARIABLE, str(root))
        assert not code.is_own(Path(code.__file__))
        assert not code.is_own(Path(keras.__file__))
        assert not code.is_own(Path(re.__file__))
        code.identity()
        code.forget()
    assert isinstance(made, Program)
    assert sys.modules["runner.training.program"].Program is Program
    assert sys.modules["re"] is re
