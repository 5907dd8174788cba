"""The test images as they are, and n times through the augmentation, exactly repeatable.

The random changes of a batch depend on the seed, the pass and the batch's place alone: an
evaluation that was killed and begun anew, anywhere, sees the same pictures. Augmented images
come from the model's own rescaling and random layers and go straight into the network, so
nothing is rescaled twice.
"""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import PreemptedError, SpecError, TrainingError
from runner.evaluation import metrics
from runner.training.assemble import Assembled, augmentation_layers, rescaling
from runner.training.progress import OnProgress, Progress

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured. Everything but `timing` is the same in every repetition."""

    metrics: Mapping[str, Any]  #: plain JSON: top_1, loss, certainty, ...
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)  #: confusion matrices, predictions, ...
    timing: Mapping[str, float]  #: seconds, images_per_second of the plain pass

    def npz(self) -> bytes:
        """Return the arrays as an npz file, the same bytes for the same arrays."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, array in sorted(self.arrays.items()):
                # a fixed date, where numpy.savez writes the time
                entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                content = io.BytesIO()
                np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
                file.writestr(entry, content.getvalue())
        return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How an evaluation looks at the images."""

    augmented_passes: int  #: through the augmentation; none where there is none
    batch_size: int  #: it divides the random numbers too: another size sees other changes
    seed: int  #: of the random changes
    #: flip, rotation and zoom as in a spec, for a model that was trained without them or with
    #: others; None: those that it was trained with
    augmentation: Mapping[str, Any] | None = None


def evaluate(
    parts: Assembled,
    x: NDArray[np.uint8],
    y: NDArray[Any],
    class_names: Sequence[str],
    looks: Looks,
    *,
    should_stop: Callable[[], str | None] = lambda: None,
    on_progress: OnProgress = lambda _: None,
) -> Evaluation:
    """Send the test images through a trained model and measure what it says.

    Args:
        parts: The model with its trained weights in place; it is not changed.
        x: uint8 images, N x height x width x channels.
        y: True classes.
        class_names: One per class.
        looks: How often and how they are looked at.
        should_stop: Asked before every batch; a text ends the evaluation.
        on_progress: Told after every batch.

    Raises:
        PreemptedError: `should_stop` gave a reason. Nothing is kept; begin again.
        TrainingError: the network's probabilities are no numbers.
    """
    if len(x) == 0 or len(x) != len(y):
        msg = f"received {len(x)} test images and {len(y)} labels; expected one label each."
        raise SpecError(msg)
    seed = looks.seed
    layers = augmentation_layers(looks.augmentation or parts.augmentation, seed=seed)
    passes = looks.augmented_passes if layers else 0
    batch_size = min(looks.batch_size, len(x))
    run = _Run(_network(parts), x, batch_size, passes, should_stop, on_progress)
    run.warm_up()
    began = time.perf_counter()
    results = [run.predict([], 0, seed)]
    seconds = time.perf_counter() - began
    results += [run.predict(layers, number, seed) for number in range(1, passes + 1)]
    measured, arrays = _measure(results, np.asarray(y), class_names)
    return Evaluation(
        metrics=measured | {"parameters": parts.model.count_params(), "seed": seed},
        arrays=arrays,
        timing={"plain_seconds": seconds, "images_per_second": len(x) / seconds},
    )


def _network(parts: Assembled) -> "keras.Model":
    """Wrap the trained network, so that compiling for this leaves the original as it is."""
    import keras

    pixels = keras.Input(parts.image_shape, name="pixels")
    model = keras.Model(pixels, parts.network(pixels, training=False), name="evaluation")
    # TensorFlow has graphs; JAX has XLA or single operations
    model.compile(jit_compile=keras.config.backend() != "tensorflow")
    return model


def _pixels(layers: "Sequence[keras.layers.Layer]", images: NDArray[np.uint8]) -> NDArray[Any]:
    """Rescale once, then change at random although this is no training."""
    import keras

    # called one by one: predict() would tell layers inside a model that training is off
    x = rescaling()(images)
    for layer in layers:
        x = layer(x, training=True)
    return np.asarray(keras.ops.convert_to_numpy(x))


@dataclass(frozen=True)
class _Run:
    """Passes over the images, batch by batch."""

    network: "keras.Model"
    x: NDArray[np.uint8]
    batch_size: int
    passes: int
    should_stop: Callable[[], str | None]
    on_progress: OnProgress

    @property
    def per_pass(self) -> int:
        """Batches of one pass."""
        return -(-len(self.x) // self.batch_size)

    def warm_up(self) -> None:
        """Trace before the clock runs."""
        self._ask([], 0)

    def predict(
        self, layers: "Sequence[keras.layers.Layer]", number: int, seed: int
    ) -> NDArray[np.float32]:
        """Return the probabilities of pass `number`, images x classes."""
        done = []
        for batch in range(self.per_pass):
            if reason := self.should_stop():
                msg = f"evaluation stopped before its end: {reason}"
                raise PreemptedError(msg)
            _seed(layers, f"evaluation {seed} {number} {batch}")
            done.append(self._ask(layers, batch))
            self.on_progress(
                Progress(
                    stage="evaluate",
                    step=number * self.per_pass + batch + 1,
                    steps=self.per_pass * (self.passes + 1),
                    batch_size=self.batch_size,
                )
            )
        return np.concatenate(done)

    def _ask(self, layers: "Sequence[keras.layers.Layer]", batch: int) -> NDArray[np.float32]:
        """Return the probabilities of a batch; the last is filled up: a new size is traced anew."""
        places = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        images = self.x.take(places, axis=0, mode="wrap")
        answer = self.network.predict_on_batch(_pixels(layers, images))
        probabilities = np.asarray(answer, dtype=np.float32)[places < len(self.x)]
        if not np.isfinite(probabilities).all():
            msg = "the network's probabilities are not finite: its training has diverged."
            raise TrainingError(msg)
        return probabilities


def _seed(layers: "Sequence[keras.layers.Layer]", key: str) -> None:
    """Give each random layer the numbers that belong to this pass and batch."""
    for layer in layers:
        text = f"{key} {layer.name}".encode()
        digest = hashlib.blake2b(text, digest_size=4).digest()
        layer.generator.state.assign([int.from_bytes(digest, "little") >> 1, 0])


def of_classes(
    probabilities: NDArray[np.float32], labels: NDArray[Any], class_names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what the probabilities (examples x classes) say about the labels, and the arrays."""
    return _measure([probabilities], labels, class_names)


def _measure(
    results: Sequence[NDArray[np.float32]], labels: NDArray[Any], class_names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    classes = len(class_names)
    predicted = np.stack([p.argmax(axis=1) for p in results]).astype(np.int32)
    plain = results[0]
    confusion = metrics.confusion_matrix(labels, predicted[0], classes)
    measured: dict[str, Any] = {
        "images": len(labels),
        "classes": classes,
        "class_names": list(class_names),
        **_scores(plain, labels),
        # one look at each image says neither
        "certainty": metrics.certainty(predicted, labels) if len(results) > 1 else None,
        "consistency": metrics.consistency(predicted) if len(results) > 1 else None,
        "augmented_passes": len(results) - 1,
        "augmented": None,
        **metrics.calibration(plain, labels),
        "confused": metrics.confused_pairs(confusion, class_names),
    }
    arrays: dict[str, NDArray[Any]] = {
        "labels": labels.astype(np.int32),
        "predicted": predicted,
        "probabilities": plain,
        "confusion": confusion,
        "per_class_accuracy": metrics.per_class_accuracy(confusion),
    }
    if len(results) > 1:
        per_pass = [_scores(p, labels) for p in results[1:]]
        augmented = metrics.confusion_matrix(
            np.broadcast_to(labels, predicted[1:].shape), predicted[1:], classes
        )
        measured["augmented"] = {
            **{name: float(np.mean([s[name] for s in per_pass])) for name in per_pass[0]},
            "passes": per_pass,
            "confused": metrics.confused_pairs(augmented, class_names),
        }
        arrays["confusion_augmented"] = augmented
        arrays["per_class_accuracy_augmented"] = metrics.per_class_accuracy(augmented)
    return measured, arrays


def _scores(probabilities: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    ranks = metrics.ranks(probabilities, labels)
    return {
        "loss": metrics.cross_entropy(probabilities, labels),
        "top_1": metrics.top_k(ranks, 1),
        "top_5": metrics.top_k(ranks, 5),
    }
