"""Trained models as files to deploy: read by what will run them, they answer as was evaluated."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from runner import spec as specs
from runner.cli.main import main
from runner.datasets.digits import load
from runner.evaluation import export, readback
from runner.training.programs import make
from tests.harness import QUICKSTART, Runner, kill, need, wait_until

pytestmark = pytest.mark.chaos  # TensorFlow writes and traces each format: minutes

FORMATS = ("m.tflite", "m.onnx", "folder/")
EXTRAS = {"m.onnx": ("tf2onnx", "onnxruntime")}
PROGRAMS = """
import keras, numpy, runner

class Ungiven(keras.Model):
    def train_step(self, data):
        return {"loss": keras.ops.sum(data)}

def program(*, kind: str) -> runner.Program:
    random = numpy.random.default_rng(1)
    if kind == "ungiven":
        model = Ungiven()
        model.compile()
        return runner.Program(model=model, fit={"x": random.normal(size=(8, 4))})
    if kind == "raw":
        x, y = numpy.array(["good film", "bad film"] * 20, dtype=object), numpy.arange(40) % 2
        index = keras.layers.TextVectorization(output_sequence_length=4)
        index.adapt(x)
        layers = [keras.Input((), dtype="string"), index, keras.layers.Embedding(9, 4)]
        layers += [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, "softmax")]
        model = keras.Sequential(layers)
        model.compile("adam", "sparse_categorical_crossentropy")
        data, classes = {"x": x, "y": y}, ["bad", "good"]
        return runner.Program(model=model, fit=data, evaluate=data, classes=classes)
    x = [random.normal(size=(50, 4)), random.integers(0, 9, size=(50, 3))]
    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((3,), dtype="int32", name="alpha")
    both = keras.layers.Concatenate()([zeta, keras.ops.cast(alpha, "float32")])
    both = keras.layers.GaussianNoise(0.5)(keras.layers.Dense(8, "relu")(both))
    outputs = {"z": keras.layers.Dense(2)(both), "a": keras.layers.Dense(1)(both)}
    model = keras.Model([zeta, alpha], outputs)
    y = {"z": x[0][:, :2], "a": x[0][:, 2:3]}
    model.compile("adam", "mse")
    return runner.Program(model=model, fit={"x": x, "y": y}, evaluate={"x": x, "y": y})
"""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A store of finished jobs: digits, two outputs, a table, texts, and one without a `call`."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "programs").mkdir()
    (folder / "programs" / "mine.py").write_text(PROGRAMS)
    jobs: dict[str, Any] = {
        "two": {"program": {"name": "mine", "arguments": {"kind": "two"}}},
        "ungiven": {"program": {"name": "mine", "arguments": {"kind": "ungiven"}}},
        "raw": {"program": {"name": "mine", "arguments": {"kind": "raw"}}},
        "table": {"program": {"name": "diabetes"}},
        "texts": {"program": {"name": "descriptions"}},
        "digits": json.loads(QUICKSTART.read_text()) | {"evaluation": {"augmented_passes": 0}},
    }
    for name, job in jobs.items():
        job |= {"name": name, "training": {"epochs": 2}}
        (folder / f"{name}.json").write_text(json.dumps(job))
    runner = Runner(folder / "store", {"RUNNER_CODE": str(folder)})
    paths = [str(folder / f"{name}.json") for name in jobs]
    runner.ok("submit", *paths, "--no-trial", "--set", "checkpoint.best=null")
    return runner


@pytest.fixture
def command(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """`runner export` in this process: its exit code, and what it said."""
    monkeypatch.setenv("RUNNER_STORE", str(runner.store))
    monkeypatch.setenv("RUNNER_CODE", (runner.environment or {})["RUNNER_CODE"])

    def command(*arguments: str) -> tuple[int, str]:
        code = main(["export", *arguments])
        return code, capsys.readouterr().err

    return command


@pytest.fixture(scope="module")
def predicted(runner: Runner) -> NDArray[np.int32]:
    """The classes that the evaluation found."""
    (path,) = (runner.store / "jobs" / "digits" / "evaluation").glob("*.npz")
    with np.load(path) as arrays:
        found: NDArray[np.int32] = arrays["predicted"][0]
    return found


def answers(path: Path, images: NDArray[np.uint8]) -> Any:
    """What a file answers, without any of our code."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        (taken,) = session.get_inputs()
        assert (taken.name, taken.type) == ("image", "tensor(uint8)")
        return session.run(None, {"image": images})[0]
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(str(path)).get_signature_runner()
        assert run.get_input_details()["image"]["dtype"] is np.uint8
        return run(image=images)["output_0"]
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return loaded.serve(tf.constant(images)).numpy()


@pytest.mark.parametrize("name", FORMATS)
def test_images_get_the_classes_that_the_evaluation_found(
    command: Callable[..., tuple[int, str]],
    predicted: NDArray[np.int32],
    tmp_path: Path,
    name: str,
) -> None:
    """Of uint8 pixels, any number at once; with nothing of the augmentation."""
    need(*EXTRAS.get(name, ()))
    code, said = command("digits", f"{tmp_path}/{name}")
    assert code == 0, said
    assert "360 of 360 classes equal the evaluation's; probabilities differ by at most" in said
    assert [path.name for path in tmp_path.iterdir()] == [name.strip("/")]
    if name == "m.tflite":
        need("ai_edge_litert")
    images = load(path=None).x_test
    assert images.dtype == np.uint8
    for number in (1, 7, 360):
        found = answers(tmp_path / name, images[:number])
        assert (found.argmax(axis=1) == predicted[:number]).all()
        assert np.allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_weights_are_read_back_whole(
    runner: Runner,
    command: Callable[..., tuple[int, str]],
    predicted: NDArray[np.int32],
    tmp_path: Path,
    name: str,
) -> None:
    """Into a model that is made anew they give the evaluation's classes."""
    code, said = command("digits", f"{tmp_path}/{name}")
    assert (code, re.search(r"read back: all \d+ weights are the same", said) is not None) == (0, 1)
    job = runner.job("digits")
    assert job is not None
    spec = specs.parse(runner.queue().spec(job.id, job.spec_digest), source="digits")
    fresh = make(spec, training=False).model
    fresh.load_weights(tmp_path / name)
    images = load(path=None).x_test
    assert (fresh.predict(images, verbose=0).argmax(axis=1) == predicted).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("job", "found"),
    [
        ("two", r"answers to 50 examples differ by at most (\S+), \S+ on average"),
        ("table", r"answers to 89 examples differ by at most (\S+), \S+ on average"),
        ("texts", r"(\d+) of \1 classes equal the evaluation's; probabilities differ by at most"),
    ],
)
def test_programs_answer_as_their_models(
    command: Callable[..., tuple[int, str]], tmp_path: Path, job: str, found: str, name: str
) -> None:
    """Several inputs and outputs, a regression, an LSTM: each by the order of its own names."""
    need(*EXTRAS.get(name, ()))
    code, said = command(job, f"{tmp_path}/{name}")
    if (job, name) == ("texts", "m.tflite"):  # LiteRT has no lists of tensors
        assert (code, "operations (FlexTensorListReserve, " in said) == (2, True), said
        return
    assert code == 0, said
    match = re.search(found, said)
    assert match is not None, said
    assert job == "texts" or float(match[1].rstrip(",")) < 1e-3


def test_raw_texts_are_asked_of_a_saved_model(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, said = command("raw", f"{tmp_path}/folder/")
    assert (code, "read back by TensorFlow: 40 of 40 classes equal" in said) == (0, True), said


def test_only_so_many_are_compared_and_other_classes_are_counted(
    command: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = readback.recorded

    def others(*arguments: Any) -> Any:
        found = recorded(*arguments)
        assert found is not None
        found[:3] = np.roll(found[:3], 1, axis=1)
        return found

    _, said = command("digits", f"{tmp_path}/one/", "--compare", "40")
    assert "40 of 40 classes equal the evaluation's; probabilities" in said
    monkeypatch.setattr(readback, "recorded", others)
    code, said = command("digits", f"{tmp_path}/two/", "--compare", "40")
    assert (code, "37 of 40 classes equal the evaluation's, 3 DIFFER; prob" in said) == (0, True)
    code, said = command("digits", f"{tmp_path}/three/", "--compare", "0")
    assert (code, "read back" in said) == (0, False)


def test_what_cant_be_written_leaves_nothing(
    command: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that Keras can't call; a file that can't be read back; a package that is missing."""
    code, said = command("ungiven", f"{tmp_path}/m.tflite")
    assert (code, "ungiven: m.tflite: it can't be written: " in said) == (2, True)

    def broken(path: Path) -> None:
        raise ValueError(f"{path.name} is damaged")

    with monkeypatch.context() as patch:
        patch.setitem(readback._RUNTIMES, "/", broken)
        code, said = command("digits", f"{tmp_path}/folder/")
    assert (code, "read back, and --compare 0 writes it unread: ValueError" in said) == (2, True)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name)
    )
    monkeypatch.setattr(export, "parse", None)  # nothing is computed before that is said
    code, said = command("digits", f"{tmp_path}/m.onnx")
    assert (code, "m.onnx takes tf2onnx" in said, "pip install tf2onnx" in said) == (2, True, True)
    assert not [*tmp_path.iterdir()]


def test_a_keras_that_is_too_old_is_told_what_is_needed(
    command: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras, "__version__", "3.10.0")
    code, said = command("digits", f"{tmp_path}/m.tflite")
    assert (code, "m.tflite takes Keras 3.13; this is 3.10.0" in said) == (2, True)


def test_a_kill_while_it_is_written_leaves_nothing_under_the_name(
    runner: Runner, command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """What was begun lies beside it, and the next export takes it away; it replaces no folder."""
    process = runner.start("export", "digits", f"{tmp_path}/folder/")
    wait_until((tmp_path / ".partial-folder").exists, process)
    kill(process)
    assert [path.name for path in tmp_path.iterdir()] == [".partial-folder"]
    code, said = command("digits", f"{tmp_path}/folder/")
    assert code == 0, said
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    code, said = command("digits", f"{tmp_path}/folder/")
    assert (code, "which exists already; remove it" in said) == (2, True)
