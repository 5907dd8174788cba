"""What was exported is read by a program that runs it, and answers as the model does, or is told.

A class is what is most probable; where a program has no classes, answers are compared as they are.
"""

import importlib.util
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from runner.errors import SpecError
from runner.evaluation.measure import class_probabilities
from runner.queue.job import Job
from runner.queue.view import read_named
from runner.spec import JobSpec
from runner.store.base import Store
from runner.training import private
from runner.training.images import ImageProgram
from runner.training.program import Program

Array = NDArray[Any]
MOST_BYTES = 1 << 32  #: of an evaluation's arrays


@dataclass(frozen=True)
class _Runtime:
    """What runs a file."""

    name: str
    inputs: Sequence[str]  #: their names in the file
    answer: Callable[[dict[str, Array]], Sequence[Array]]  #: in the order of the model's outputs


def recorded(
    store: Store, job: Job, spec: JobSpec, reference: Mapping[str, Any]
) -> NDArray[np.float32] | None:
    """Return the probabilities that the job's evaluation found with this very checkpoint."""
    best = spec.evaluation is not None and spec.evaluation.checkpoint == "best"
    tested, place = job.best if best else job.final, (job.evaluation or {}).get("npz")
    if not place or not tested or tested.get("digest") != reference.get("digest"):
        return None
    data = read_named(store, place, MOST_BYTES)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return arrays["probabilities"] if "probabilities" in arrays.files else None


def compared(
    program: Program,
    model: keras.Model,
    path: Path,
    ending: str,
    recorded: NDArray[np.float32] | None,
    most: int | None,
) -> str:
    """Return in words how far a file's answers to the test data are from what is expected.

    Args:
        program: whose model was trained.
        model: that was exported.
        path: of the file.
        ending: which kind of file it is.
        recorded: the evaluation's probabilities; None: the model is asked here.
        most: so many examples at most.
    """
    runtime = _RUNTIMES[ending](path)
    if not program.classes or callable(program.evaluate):
        recorded = None  # or of other examples
    if recorded is not None:
        most = len(recorded) if most is None else min(most, len(recorded))
    found = _Comparison(classes=bool(program.classes))
    for x in _examples(program, most):
        answers = runtime.answer(_by_name(model, runtime.inputs, x))
        if recorded is None:
            expected = keras.tree.flatten(program.model.predict_on_batch(x))
        else:
            expected = [recorded[found.examples :][: len(answers[0])]]
        found.add(answers, expected)
    whose = "the model" if recorded is None else "the evaluation"
    words = found.words(whose) if found.examples else "not compared, since there are no test data"
    return f"read back by {runtime.name}: {words}"


def reloaded(model: keras.Model, path: Path) -> str:
    """Return in words whether a file holds every weight; the model has those of the file then."""
    written = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    for weight, array in zip(model.weights, written, strict=True):
        weight.assign(np.zeros_like(array))
    model.load_weights(path)
    read = map(keras.ops.convert_to_numpy, model.weights)
    lost = sum(a.tobytes() != b.tobytes() for a, b in zip(written, read, strict=True))
    same = f"all {len(written)} weights are" if not lost else f"{lost} of {len(written)} are not"
    return f"read back: {same} the same"


class _Comparison:
    """Sums over the examples so far."""

    def __init__(self, *, classes: bool) -> None:
        self._classes = classes
        self.examples = 0
        self._equal = 0
        self._gaps: list[tuple[float, float, int]] = []  # largest, sum, how many

    def add(self, answers: Sequence[Any], expected: Sequence[Any]) -> None:
        """Count a batch; each is the model's outputs, examples first."""
        self.examples += len(answers[0])
        for one, other in zip(answers, expected, strict=True):
            if self._classes:
                one, other = class_probabilities(one), class_probabilities(other)
                self._equal += int((one.argmax(axis=-1) == other.argmax(axis=-1)).sum())
            gap = np.abs(np.subtract(one, other, dtype=np.float64))
            self._gaps.append((float(gap.max()), float(gap.sum()), gap.size))

    def words(self, whose: str) -> str:
        """Return what was found; `whose` answers were expected."""
        largest, sums, sizes = zip(*self._gaps, strict=True)
        what, classes = f"answers to {self.examples} examples", ""
        if self._classes:
            differ = self.examples - self._equal
            classes = f"{self._equal} of {self.examples} classes equal {whose}'s"
            classes += f", {differ} DIFFER; " if differ else "; "
            what = "probabilities"
        mean = sum(sums) / sum(sizes)
        return f"{classes}{what} differ by at most {max(largest):.2g}, {mean:.2g} on average"


def _examples(program: Program, most: int | None) -> Iterator[Any]:
    """Yield what the model is asked, in batches: the test data, else what it is validated with."""
    if isinstance(program, ImageProgram):
        data: Mapping[str, Any] = {"x": program.test and program.test[0]}
    elif isinstance(program.evaluate, Mapping):
        data = program.evaluate
    else:
        held = program.fit.get("validation_data")
        data = {"x": held[0] if isinstance(held, tuple | list) else held}
        data |= {"steps": program.fit.get("validation_steps")}
    if data["x"] is None:
        return
    given = {key: data.get(key) for key in ("x", "y", "sample_weight", "batch_size")}
    left = most
    for batch in private.numpy_batches(**given, steps=data.get("steps")):
        x = keras.utils.unpack_x_y_sample_weight(batch)[0]
        if left is not None:
            x = keras.tree.map_structure(lambda array, end=left: array[:end], x)
            left -= len(keras.tree.flatten(x)[0])
        yield x
        if left == 0:
            return


def _by_name(model: Any, names: Sequence[str], x: Any) -> dict[str, Array]:
    """Return a batch as a file takes it: an array of its own type for each name."""
    inputs = getattr(model, "inputs", None) or []
    known = [one.name for one in inputs]
    by_key = isinstance(x, Mapping) and bool(known) and set(known) <= x.keys()
    arrays = [x[name] for name in known] if by_key else keras.tree.flatten(x)
    if inputs:
        arrays = [_of_type(a, one.dtype) for a, one in zip(arrays, inputs, strict=True)]
    ordered = known if set(known) == set(names) else sorted(names)
    return dict(zip(ordered, arrays, strict=True))


def _of_type(array: Any, dtype: str) -> Array:
    """Return an array of a type as Keras names it; texts stay objects."""
    return np.asarray(array, object if dtype == "string" else dtype)


def _in_order(found: Mapping[str, Array]) -> list[Array]:
    """Return a signature's outputs as the model has them: numbered, or a dictionary's by key."""
    numbered = [f"output_{number}" for number in range(len(found))]
    return [found[name] for name in (numbered if numbered[0] in found else sorted(found))]


def _tflite(path: Path) -> _Runtime:
    # what only TensorFlow can run has its name in the file
    flex = sorted({name.decode() for name in re.findall(rb"Flex[A-Z]\w+", path.read_bytes())})
    if flex:
        raise SpecError(
            f"it needs TensorFlow's own operations ({', '.join(flex)}) beside LiteRT's, the Flex"
            " delegate, which no Python package has. ONNX and a SavedModel need nothing else."
        )
    if importlib.util.find_spec("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter

        name = "ai-edge-litert"
    else:
        from tensorflow import lite

        Interpreter, name = lite.Interpreter, "TensorFlow's Interpreter"  # noqa: N806 - a class
    run = Interpreter(str(path)).get_signature_runner()
    inputs = list(run.get_input_details())
    return _Runtime(name, inputs, lambda given: _in_order(run(**given)))


def _saved_model(path: Path) -> _Runtime:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]

    def answer(given: dict[str, Array], keep: Any = loaded) -> list[Array]:  # noqa: ARG001
        found = serve(**{name: tf.constant(array) for name, array in given.items()})
        return _in_order({name: tensor.numpy() for name, tensor in found.items()})

    return _Runtime("TensorFlow", list(serve.structured_input_signature[1]), answer)


def _onnx(path: Path) -> _Runtime:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return _Runtime("onnxruntime", names, lambda given: session.run(None, given))


_RUNTIMES = {"/": _saved_model, ".tflite": _tflite, ".onnx": _onnx}
