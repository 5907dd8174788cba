"""Plain and augmented passes: exact, repeatable, rescaled once, and stoppable."""

import io
import json
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
from sklearn import metrics as sk

from runner.datasets import digits
from runner.errors import PreemptedError, TrainingError
from runner.evaluation.evaluate import Evaluation, Looks, evaluate
from runner.models import mlp
from runner.training.assemble import Assembled, assemble

if TYPE_CHECKING:
    from runner.training.progress import Progress

ALL = {"flip": "horizontal_and_vertical", "rotation": 0.2, "zoom": 0.2}
IMAGES = digits.load(image_size=8)


def model(augmentation: dict[str, Any] | None = ALL, build: Any = mlp.build) -> Assembled:
    return assemble(build, {}, image_shape=(8, 8, 1), classes=10, augmentation=augmentation, seed=5)


@pytest.fixture(scope="module")
def trained() -> Assembled:
    parts = model()
    parts.model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    parts.model.fit(IMAGES.x_train, IMAGES.y_train, epochs=4, batch_size=32, verbose=0)
    return parts


def measure(parts: Assembled, images: int = 90, passes: int = 3, **settings: Any) -> Evaluation:
    calls = {
        name: settings.pop(name) for name in ("should_stop", "on_progress") if name in settings
    }
    return evaluate(
        parts,
        IMAGES.x_test[:images],
        IMAGES.y_test[:images],
        IMAGES.class_names,
        Looks(augmented_passes=passes, **{"batch_size": 40, "seed": 9, **settings}),
        **calls,
    )


def test_numbers_equal_those_of_scikit_learn(trained: Assembled) -> None:
    found = measure(trained, images=355)
    x, y = IMAGES.x_test[:355], IMAGES.y_test[:355]
    p = trained.model.predict(x, batch_size=40, verbose=0)
    np.testing.assert_allclose(found.arrays["probabilities"], p, rtol=1e-5)  # the last batch too
    assert found.metrics["top_1"] == sk.accuracy_score(y, p.argmax(axis=1)) > 0.2
    assert found.metrics["top_5"] == sk.top_k_accuracy_score(y, p, k=5)
    assert found.metrics["loss"] == pytest.approx(sk.log_loss(y, p), abs=1e-5)
    np.testing.assert_array_equal(
        found.arrays["confusion"], sk.confusion_matrix(y, p.argmax(axis=1))
    )
    predicted = found.arrays["predicted"]
    assert predicted.shape == (4, 355)
    assert found.metrics["certainty"] == pytest.approx(
        np.mean([sk.accuracy_score(y, row) for row in predicted]), abs=1e-12
    )
    assert found.metrics["consistency"] == pytest.approx(
        np.mean([sk.accuracy_score(predicted[0], row) for row in predicted]), abs=1e-12
    )
    np.testing.assert_array_equal(
        found.arrays["confusion_augmented"],
        sk.confusion_matrix(np.tile(y, 3), predicted[1:].ravel()),
    )
    augmented = found.metrics["augmented"]
    assert [one["top_1"] for one in augmented["passes"]] == [
        sk.accuracy_score(y, row) for row in predicted[1:]
    ]
    assert found.metrics["parameters"] == 64 * 64 + 64 + 64 * 10 + 10


def test_repetition_is_exact_and_leaves_the_model_alone(trained: Assembled) -> None:
    before = [v.numpy().copy() for v in trained.model.variables]
    first, second = measure(trained), measure(trained)
    assert first.metrics == second.metrics
    assert first.npz() == second.npz()
    for was, variable in zip(before, trained.model.variables, strict=True):
        np.testing.assert_array_equal(was, variable)


def test_passes_differ_and_depend_on_the_seed_alone(trained: Assembled) -> None:
    predicted = measure(trained).arrays["predicted"]
    assert len({row.tobytes() for row in predicted}) == 4
    fewer = measure(trained, passes=1).arrays["predicted"]
    np.testing.assert_array_equal(fewer, predicted[:2])
    other = measure(trained, seed=10).arrays["predicted"]
    np.testing.assert_array_equal(other[0], predicted[0])
    assert not np.array_equal(other[1:], predicted[1:])


def test_pictures_are_rescaled_once() -> None:
    """White stays white through the augmentation: twice rescaled it would be almost black."""

    def brightness(*, input_shape: Any, classes: int) -> keras.Model:
        x = keras.Input(input_shape)
        mean = keras.layers.GlobalAveragePooling2D()(x) / 2 + 0.5
        rest = keras.layers.Concatenate()([(1 - mean) / (classes - 1)] * (classes - 1))
        return keras.Model(x, keras.layers.Concatenate()([mean, rest]))

    white = np.full((50, 8, 8, 1), 255, "uint8")
    found = evaluate(
        model(build=brightness),
        white,
        np.zeros(50, int),
        IMAGES.class_names,
        Looks(augmented_passes=2, batch_size=20, seed=1),
    )
    assert found.metrics["loss"] == pytest.approx(0, abs=1e-5)
    assert found.metrics["augmented"]["loss"] == pytest.approx(0, abs=1e-5)


def test_model_without_augmentation_has_no_augmented_passes() -> None:
    found = measure(model(None))
    assert found.metrics["augmented_passes"] == 0
    assert found.metrics["augmented"] is None
    assert found.metrics["certainty"] is found.metrics["consistency"] is None
    assert "confusion_augmented" not in found.arrays


def test_model_without_augmentation_can_be_sent_augmented_images() -> None:
    found = measure(model(None), augmentation=ALL)
    assert found.metrics == measure(model(ALL)).metrics
    assert found.metrics["augmented_passes"] == 3


def test_metrics_are_plain_json_and_arrays_need_no_pickle(trained: Assembled) -> None:
    found = measure(trained)
    assert json.loads(json.dumps(found.metrics, allow_nan=False)) == found.metrics
    with np.load(io.BytesIO(found.npz()), allow_pickle=False) as file:
        assert set(file.files) == set(found.arrays)
        np.testing.assert_array_equal(file["confusion"], found.arrays["confusion"])


def test_stop_between_batches_keeps_nothing_and_a_restart_is_exact(trained: Assembled) -> None:
    asked = []

    def stop() -> str | None:
        asked.append(1)
        return "SIGTERM" if len(asked) == 6 else None

    with pytest.raises(PreemptedError, match="evaluation stopped before its end: SIGTERM"):
        measure(trained, should_stop=stop)
    assert measure(trained).npz() == measure(trained, should_stop=lambda: None).npz()


def test_progress_counts_all_batches(trained: Assembled) -> None:
    seen: list[Progress] = []
    measure(trained, on_progress=seen.append)
    assert [(p.step, p.steps) for p in seen] == [(n, 12) for n in range(1, 13)]
    assert all(p.stage == "evaluate" and p.batch_size for p in seen)


def test_diverged_network_is_an_error() -> None:
    parts = model()
    head = parts.network.get_layer("head")
    head.set_weights([np.full_like(w, np.nan) for w in head.get_weights()])
    with pytest.raises(TrainingError, match="not finite"):
        measure(parts)
