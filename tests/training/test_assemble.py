"""One model from uint8 pixels to probabilities, the same for the same arguments."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner.errors import SpecError
from runner.evaluation.trial import build_report
from runner.models import mlp
from runner.spec import JobSpec, parse
from runner.training import images
from runner.training.assemble import assemble, augmentation_layers, rescaling

ALL = {"flip": "horizontal_and_vertical", "rotation": 0.2, "zoom": 0.2}
SHAPE = (8, 8, 1)


def build(augmentation: dict[str, Any] | None = None, seed: int = 3, **arguments: Any) -> Any:
    return assemble(
        mlp.build,
        {"units": (5,), "dropout": 0.5} | arguments,
        image_shape=SHAPE,
        classes=4,
        augmentation=augmentation,
        seed=seed,
    )


def test_pixels_reach_the_network_in_minus_one_to_one() -> None:
    pixels = np.array([0, 51, 255], "uint8").reshape(1, 3, 1, 1)
    np.testing.assert_allclose(np.ravel(rescaling()(pixels)), [-1, -0.6, 1], atol=1e-6)


def test_model_is_rescaling_then_network() -> None:
    parts = build(ALL)
    x = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype("uint8")
    expected = parts.network(x.astype("float32") / 127.5 - 1, training=False)
    np.testing.assert_allclose(parts.model(x, training=False), expected, atol=1e-6)
    kinds = [type(layer).__name__ for layer in parts.model.layers]
    assert kinds == [
        *("InputLayer", "Rescaling"),
        *("RandomFlip", "RandomRotation", "RandomZoom"),
        "Functional",
    ]
    assert parts.classes == 4


def test_random_layers_work_in_training_only() -> None:
    model = build(ALL, dropout=0.0).model
    x = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype("uint8")
    assert np.array_equal(model(x, training=False), model(x, training=False))
    assert np.array_equal(model(x, training=False), model.predict_on_batch(x))
    assert not np.array_equal(model(x, training=True), model(x, training=True))


def test_layers_without_effect_are_left_out() -> None:
    assert augmentation_layers(None, seed=1) == []
    none = {"flip": None, "rotation": 0.0, "zoom": 0.0}
    assert augmentation_layers(none, seed=1) == []
    [only] = augmentation_layers(none | {"zoom": 0.1}, seed=1)
    assert isinstance(only, keras.layers.RandomZoom)


def test_random_layers_do_not_share_their_draws() -> None:
    seeds = [layer.seed for layer in augmentation_layers(ALL, seed=1)]
    assert len(set(seeds)) == 3
    assert seeds == [layer.seed for layer in augmentation_layers(ALL, seed=1)]
    assert seeds != [layer.seed for layer in augmentation_layers(ALL, seed=2)]


def test_same_arguments_give_the_same_model_whatever_went_before() -> None:
    first = build(ALL)
    np.random.default_rng().random()
    keras.layers.Dropout(0.5)
    second, other = build(ALL), build(ALL, seed=4)
    names = [[v.path for v in parts.model.variables] for parts in (first, second)]
    assert names[0] == names[1]
    for a, b in zip(first.model.variables, second.model.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [parts.network.get_layer("head").kernel for parts in (first, other)]
    assert not np.array_equal(*kernels)


def test_limits_of_this_machine_do_not_shorten_a_job() -> None:
    keras.config.set_max_epochs(1)
    keras.config.set_max_steps_per_epoch(2)
    build()
    assert keras.config.max_epochs() is None
    assert keras.config.max_steps_per_epoch() is None


def test_mixed_precision_keeps_pixels_and_probabilities_exact() -> None:
    try:
        parts = assemble(
            mlp.build,
            {},
            image_shape=SHAPE,
            classes=4,
            augmentation=ALL,
            seed=1,
            dtype_policy="mixed_bfloat16",
        )
        assert parts.network.get_layer("hidden1").compute_dtype == "bfloat16"
        assert parts.model.get_layer("zoom").compute_dtype == "float32"
        assert parts.model.output.dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


def test_weights_to_begin_with_are_offered_not_loaded() -> None:
    assert build().pretrained is None

    def with_weights(**arguments: Any) -> keras.Model:
        network = mlp.build(**arguments)
        network.pretrained = lambda: {"weights": "mine"}
        return network

    parts = assemble(with_weights, {}, image_shape=SHAPE, classes=4, augmentation=None, seed=1)
    assert parts.pretrained is not None
    assert parts.pretrained() == {"weights": "mine"}


def test_network_with_another_output_is_refused() -> None:
    def pixels_back(**_: Any) -> keras.Model:
        x = keras.Input(SHAPE)
        return keras.Model(x, keras.layers.Identity()(x))

    with pytest.raises(SpecError, match="expected one probability for each of 4 classes"):
        assemble(pixels_back, {}, image_shape=SHAPE, classes=4, augmentation=None, seed=1)


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match=r"cannot be built .*'depth'.* Fix model\.arguments"):
        build(depth=3)


class OwnStep(keras.Model):  # type: ignore[misc]
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class OwnLoss(keras.Model):  # type: ignore[misc]
    def compute_loss(self, **parts: Any) -> Any:
        return 2 * super().compute_loss(**parts)

    def compute_metrics(self, *parts: Any, **others: Any) -> Any:
        return super().compute_metrics(*parts, **others)

    def test_step(self, data: Any) -> Any:
        return super().test_step(data)


class OwnCall(keras.Model):  # type: ignore[misc]
    def call(self, *arguments: Any, **others: Any) -> Any:
        return super().call(*arguments, **others)


def of_class(kind: Any) -> Any:
    def build(*, input_shape: Any, classes: int, **_: Any) -> Any:
        pixels = keras.Input(input_shape)
        flat = keras.layers.Flatten()(pixels)
        return kind(pixels, keras.layers.Dense(classes, activation="softmax")(flat))

    return build


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (OwnStep, "class OwnStep, whose own train_step a job never calls"),
        (OwnLoss, "class OwnLoss, whose own test_step, compute_loss, compute_metrics a job"),
    ],
)
def test_steps_loss_and_metrics_of_a_network_that_no_job_would_call_are_refused(
    kind: Any, named: str
) -> None:
    """They would silently not be used: what is trained is a model around the network."""
    with pytest.raises(SpecError, match=named):
        assembled_of(of_class(kind))


def test_a_step_that_was_hung_onto_a_network_is_refused_too() -> None:
    def build(**arguments: Any) -> Any:
        network = of_class(keras.Model)(**arguments)
        network.train_step = lambda data: {}
        return network

    with pytest.raises(SpecError, match="class Functional, whose own train_step"):
        assembled_of(build)


def test_a_network_of_a_class_of_its_own_is_trained() -> None:
    assert assembled_of(of_class(OwnCall)).classes == 4


def assembled_of(build: Any) -> Any:
    return assemble(build, {}, image_shape=SHAPE, classes=4, augmentation=None, seed=1)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, r"build\(...\) returned None; expected a Keras model"),
        ([keras.layers.Dense(4)], "returned a list; expected a Keras model"),
        (keras.layers.Dense(4), "returned a Dense; expected a Keras model"),
    ],
)
def test_what_is_no_model_is_refused_by_its_name(made: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        assemble(lambda **_: made, {}, image_shape=SHAPE, classes=4, augmentation=None, seed=1)


def test_a_refusal_of_keras_ends_in_one_full_stop() -> None:
    def padded(**_: Any) -> keras.Model:
        raise ValueError("Invalid padding.")

    with pytest.raises(SpecError, match=r"Invalid padding\. Fix model\.arguments\."):
        assemble(padded, {}, image_shape=SHAPE, classes=4, augmentation=None, seed=1)


RAW = """
import keras

def build(*, input_shape, classes, softmax=False, by_ops=False, nested=False):
    flat = keras.Input(input_shape)
    x = keras.layers.Flatten()(flat)
    x = keras.layers.Dense(classes, activation="softmax" if softmax else None, name="head")(x)
    model = keras.Model(flat, keras.ops.softmax(x) if by_ops else x)
    return keras.Sequential([keras.Input(input_shape), model]) if nested else model
"""


@pytest.mark.parametrize("nested", [False, True])
def test_outputs_that_are_no_probabilities_are_said_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    nested: bool,
) -> None:
    """By `validate --build`, and as a new job begins: in its log and its record."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "raw.py").write_text(RAW)
    monkeypatch.setenv("RUNNER_CODE", str(tmp_path))

    def spec(**arguments: Any) -> JobSpec:
        model = {"name": "raw", "arguments": {**arguments, "nested": nested}}
        return parse({"name": "raw", "data": {"name": "digits"}, "model": model}, source="raw.json")

    said = "the layer head, which has no activation: its outputs are no probabilities"
    assert said in build_report(spec(), source="raw.json")
    [note] = images.program(spec()).load_first_weights()
    assert said in note
    assert caplog.text.count(said) == 1
    assert "activation" not in build_report(spec(softmax=True), source="raw.json")
    assert images.program(spec(softmax=True)).load_first_weights() == []
    assert build().doubt == ""
    assert build_report(spec(by_ops=True), source="raw.json").count("activation") == 0
