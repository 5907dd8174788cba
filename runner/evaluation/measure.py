"""What a job's program has learnt, measured in the way that the program says."""

import time
from collections.abc import Mapping, Sequence, Set
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from runner.errors import PreemptedError, TrainingError
from runner.evaluation import evaluate
from runner.evaluation.evaluate import Evaluation, Looks
from runner.mistakes import kind_of
from runner.training import private
from runner.training.host import Host
from runner.training.images import ImageProgram
from runner.training.logs import Logs
from runner.training.program import Program
from runner.training.progress import Progress

#: what a result's record, its document and the report have beside the results
_OURS = frozenset({"json", "npz", "timing", "classes", "class_names", "augmented_passes"})


def measure(program: Program, host: Host) -> Evaluation:
    """Evaluate a program whose model is trained.

    Raises:
        PreemptedError: asked to stop. Nothing is kept; begin again.
        TrainingError: a result is no number or array.
    """
    if isinstance(program, ImageProgram):
        return _images(program, host)
    if not callable(program.evaluate):
        return _by_keras(program, program.evaluate or {}, host)
    began = time.perf_counter()
    host.progressed(Progress(stage="evaluate"))
    found: Any = program.evaluate(program.model)
    if not isinstance(found, Mapping):
        raise TrainingError(f"evaluate(model) returned {kind_of(found)}; expected numbers by name.")
    return _evaluation(program, found, began)


def _images(program: ImageProgram, host: Host) -> Evaluation:
    wanted, seed = program.spec.evaluation, program.spec.seed
    assert wanted is not None and program.test is not None  # noqa: PT018, S101 - else not evaluated
    augmentation = wanted.augmentation
    return evaluate.evaluate(
        program.assembled,
        *program.test,
        program.classes,
        Looks(
            augmented_passes=wanted.augmented_passes,
            batch_size=wanted.batch_size,
            seed=seed,
            augmentation=augmentation.model_dump() if augmentation else None,
        ),
        should_stop=host.should_stop,
        on_progress=host.progressed,
    )


def _by_keras(program: Program, arguments: Mapping[str, Any], host: Host) -> Evaluation:
    """By `model.evaluate`; where there are classes, by what the model says of each example too."""
    began = time.perf_counter()
    found = program.model.evaluate(
        **{**arguments, "callbacks": [_Watch(host)], "verbose": 0, "return_dict": True}
    )
    if program.classes:
        found |= _answers(program.model, arguments, host)
    return _evaluation(program, found, began)


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Lets the host stop an evaluation, and see how far it is."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:  # noqa: ARG002 - Keras's
        _continue(self._host, batch + 1, int((self.params or {}).get("steps") or 0))


def _continue(host: Host, step: int, steps: int = 0) -> None:
    if reason := host.should_stop():
        raise PreemptedError(f"evaluation stopped before its end: {reason}")
    host.progressed(Progress(stage="evaluate", step=step, steps=steps))


def _answers(model: Any, arguments: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """Return the probabilities and the labels of all examples, in the data's own order."""
    data = {key: arguments.get(key) for key in ("x", "y", "sample_weight", "batch_size")}
    probabilities, labels = [], []
    for number, batch in enumerate(private.numpy_batches(**data, steps=arguments.get("steps"))):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        probabilities.append(class_probabilities(model.predict_on_batch(x)))
        labels.append(_labels(y))
        _continue(host, number + 1)
    return {"probabilities": np.concatenate(probabilities), "labels": np.concatenate(labels)}


def class_probabilities(answer: Any) -> NDArray[np.float32]:
    """Return one row an example that sums to one: a model may end in one sigmoid, or in logits."""
    found: NDArray[Any] = np.asarray(answer, dtype=np.float32)
    if found.ndim == 1 or found.shape[-1] == 1:
        one = found.reshape(-1, 1)
        if ((one < 0) | (one > 1)).any():
            one = 1 / (1 + np.exp(-one))
        return np.concatenate([1 - one, one], axis=1)
    if (found < 0).any() or not np.allclose(found.sum(axis=-1), 1, atol=1e-3):
        powers = np.exp(found - found.max(axis=-1, keepdims=True))
        found = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _labels(given: Any) -> NDArray[np.int64]:
    """Return class numbers, also of rows with a one at the class."""
    found = np.asarray(given)
    if found.ndim > 1 and found.shape[-1] > 1:
        found = found.argmax(axis=-1)
    return found.reshape(-1).astype(np.int64)


def _evaluation(program: Program, found: Mapping[Any, Any], began: float) -> Evaluation:
    """Sort what was found into numbers and arrays, and look into the classes."""
    seconds = time.perf_counter() - began
    values = _by_name(found)
    arrays = {name: value for name, value in values.items() if value.ndim}
    metrics = {name: _number(value) for name, value in values.items() if not value.ndim}
    if program.classes and {"probabilities", "labels"} <= arrays.keys():
        about, more = _of_classes(arrays["probabilities"], arrays["labels"], program.classes)
        _refuse(values.keys() & {"reliability", "confused", *more} - {"probabilities", "labels"})
        metrics, arrays = {**metrics, **about, **metrics}, {**arrays, **more}
    metrics.setdefault("parameters", program.model.count_params() if program.model.built else None)
    return Evaluation(metrics=metrics, arrays=arrays, timing={"seconds": seconds})


def _by_name(found: Mapping[Any, Any]) -> dict[str, NDArray[Any]]:
    values: dict[str, NDArray[Any]] = {}
    for key, value in found.items():
        if (name := str(key)) in values:
            raise TrainingError(f"the evaluation has two results of the name {name!r}.")
        values[name] = _array(name, value)
    _refuse(values.keys() & _OURS)
    return values


def _refuse(names: Set[str]) -> None:
    if names:
        told = ", ".join(map(repr, sorted(names)))
        raise TrainingError(f"the evaluation can't name a result {told}: runner's own have it.")


def _number(value: NDArray[Any]) -> float | int | bool | None:
    """Return a number as JSON has it: None for what is not finite."""
    if value.dtype.kind != "f":
        return value.item()  # type: ignore[no-any-return]
    return float(value) if np.isfinite(value) else None


def _of_classes(
    answers: NDArray[Any], labels: NDArray[Any], classes: Sequence[str]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    answers, labels = class_probabilities(answers), _labels(labels)
    if answers.shape[-1] != len(classes):
        told = f"{len(classes)} classes, but the model tells {answers.shape[-1]} apart"
        raise TrainingError(f"Program(classes=...) names {told}.")
    if len(answers) != len(labels) or not np.isin(labels, range(answers.shape[-1])).all():
        known = f"{len(answers)} rows of 'probabilities' of {answers.shape[-1]} classes"
        between = f" between {labels.min()} and {labels.max()}" if len(labels) else ""
        msg = f"the evaluation has {len(labels)} 'labels'{between} for {known}."
        raise TrainingError(msg)
    if not np.isfinite(answers).all():
        raise TrainingError("the model's probabilities are not finite: its training has diverged.")
    found, arrays = evaluate.of_classes(answers, labels, classes)
    found["examples"] = found.pop("images")
    if len(classes) <= 5:
        del found["top_5"]  # which is always 1
    return {name: value for name, value in found.items() if value is not None}, arrays


def _array(name: str, value: Any) -> NDArray[Any]:
    if "bfloat16" in str(getattr(value, "dtype", "")):  # which NumPy does not have
        value = keras.ops.cast(value, "float32")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"the evaluation's {name!r} is no array: {error}") from error
    if array.dtype.kind not in "biuf":
        what = kind_of(value) if not array.ndim else f"of the type {array.dtype}"
        raise TrainingError(
            f"the evaluation's {name!r} is {what}; expected a number or an array of numbers."
        )
    return array
