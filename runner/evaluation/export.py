"""A trained model as one file or folder for other programs; read back before it has its name."""

import importlib.util
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import DataError, SpecError
from runner.queue.job import Job
from runner.spec import parse
from runner.store.allowed import paths_of, refusal
from runner.store.base import Store
from runner.training.check import naming
from runner.training.quiet import import_keras

if TYPE_CHECKING:
    import keras

#: what an ending's file is written and read with; TensorFlow alone is no extra
_TAKES = {
    "/": ("tensorflow",),
    ".tflite": ("tensorflow",),
    ".onnx": ("tensorflow", "tf2onnx", "onnxruntime"),
}
_FORMATS = {"/": "tf_saved_model", ".tflite": "litert", ".onnx": "onnx"}  #: by Keras's names
_FIRST_LITERT = (3, 13)  #: the version of Keras that can write it


def export(
    store: Store,
    job: Job,
    spec: Mapping[str, Any],
    reference: Mapping[str, Any],
    path: Path,
    ending: str,
    *,
    most: int | None = None,
) -> tuple[list[str], str]:
    """Write the model of a checkpoint, or its weights; it appears whole or not at all.

    Args:
        store: of the job.
        job: whose model it is.
        spec: of the job.
        reference: the checkpoint.
        path: what is written. A file is replaced.
        ending: what it is: .keras, .weights.h5, .tflite, .onnx, or / for a folder, a SavedModel.
        most: how many examples are compared with what the file answers; None: all of the test
            data; 0: it is not read back.

    Returns:
        In which way the user's code is not that which trained it, in words; and what the file
        was found to be when it was read back, or "".

    Raises:
        CheckpointError: the checkpoint is damaged.
        DataError: the data, which the model is made for, cannot be read.
        SpecError: the model can't be saved like this, or a package is missing here.
    """
    _check(path.name, ending)
    from runner.evaluation import readback
    from runner.training.restore import restored_program

    parsed = parse(spec, source=job.id)
    named = paths_of(spec, begun=True).values()
    for why in filter(None, (refusal(one, store.url) for one in named)):
        raise DataError(f"{job.id} can't be exported here: {why}")
    with naming(job.id, "its program can't be run here"):
        program, differences = restored_program(store, parsed, reference)
    model = program.model
    model.built = True  # Keras asks it; one of the user's own class may have no call
    found, written = "", f"{job.id}: {path.name}"
    with _appearing(path) as partial, _quiet(ending):
        if ending in _FORMATS:
            with naming(written, "it can't be written"):
                model = _without_training(model)
                if ending == ".onnx":
                    _keep_constants(model)
                model.export(str(partial), format=_FORMATS[ending], verbose=False)
        else:
            _save(model, partial, job.id)
        with naming(written, "it can't be read back, and --compare 0 writes it unread"):
            if most != 0 and ending in _FORMATS:
                expected = readback.recorded(store, job, parsed, reference)
                found = readback.compared(program, model, partial, ending, expected, most)
            elif most != 0:
                found = readback.reloaded(model, partial)
    return [one for one in differences if one.startswith("code ")], found


def _check(name: str, ending: str) -> None:
    """Import Keras, and refuse what can't be written here, before anything is computed."""
    import_keras()
    import keras

    if ending in (".tflite", ".onnx") and keras.config.backend() != "tensorflow":
        raise SpecError(
            f"{name} is written by TensorFlow, and Keras's backend is {keras.config.backend()}"
            " here: set KERAS_BACKEND=tensorflow for this command, whatever the job trained on."
        )
    if ending == ".tflite" and tuple(map(int, keras.__version__.split(".")[:2])) < _FIRST_LITERT:
        raise SpecError(f"{name} takes Keras 3.13; this is {keras.__version__}: update Keras.")
    missing = [one for one in _TAKES.get(ending, ()) if importlib.util.find_spec(one) is None]
    if missing:
        raise SpecError(
            f"{name} takes {' and '.join(missing)}, not installed here:"
            f" pip install {' '.join(missing)}"
        )


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Give a name to write under; what lies there gets its own name at the end, whole."""
    partial = path.with_name(f".partial-{path.name}")
    _remove(partial)  # of an export that was killed
    try:
        yield partial
        partial.replace(path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _quiet(ending: str) -> Iterator[None]:
    """Leave out the exporters' own remarks, and TensorFlow where it is not needed."""
    from runner.training import private

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    asked = nullcontext() if ending in _FORMATS else private.tensorflow_unasked()
    with warnings.catch_warnings(), asked:
        warnings.simplefilter("ignore")
        yield


def _save(model: "keras.Model", path: Path, job_id: str) -> None:
    try:
        (model.save if path.suffix == ".keras" else model.save_weights)(path)
    except (NotImplementedError, TypeError) as error:  # what get_config of a user's class raises
        why = " ".join(str(error).partition("Example:")[0].split())
        msg = f"{job_id} can't be exported as a whole: {why} Its weights can: FILE.weights.h5."
        raise SpecError(msg) from error


def _without_training(model: "keras.Model") -> "keras.Model":
    """Wrap a model so that no layer trains: Keras's random layers do unless they are told."""
    import keras

    if not getattr(model, "inputs", None):
        return model  # of the user's own class, whose call says it
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    wrapped = keras.Model(inputs, model(inputs, training=False), name=model.name)
    wrapped(inputs)  # the exporter for ONNX asks whether it was ever called
    return wrapped


def _keep_constants(model: "keras.Model") -> None:
    """Make arrays of the tensors of layers (Normalization): tf2onnx takes those for inputs."""
    import tensorflow as tf

    from runner.training import private

    for layer in private.all_layers(model):
        for name, value in list(vars(layer).items()):
            if isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
                setattr(layer, name, value.numpy())
