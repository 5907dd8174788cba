"""The compiled model of a spec: the same spec and data give the same model, bit for bit."""

import inspect
from typing import TYPE_CHECKING, Any

from runner import registry
from runner.datasets.arrays import Dataset
from runner.errors import SpecError
from runner.spec import JobSpec, Optimizer
from runner.training.assemble import Assembled, assemble

if TYPE_CHECKING:
    import keras


def build(spec: JobSpec, dataset: Dataset) -> Assembled:
    """Build and compile the spec's model for these images.

    Raises:
        SpecError: the arguments don't fit the network or the optimizer.
    """
    assembled = assemble(
        registry.get("models", spec.model.name),
        spec.model.arguments,
        image_shape=dataset.image_shape,
        classes=dataset.classes,
        augmentation=spec.augmentation.model_dump() if spec.augmentation else None,
        seed=spec.seed,
        dtype_policy=spec.training.dtype_policy,
    )
    compile_model(assembled.model, spec, dataset.classes)
    return assembled


def compile_model(model: "keras.Model", spec: JobSpec, classes: int) -> None:
    """Give the model its optimizer, cross-entropy, and top-1 and top-5 accuracy."""
    import keras

    model.compile(
        optimizer=make_optimizer(spec.optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="top_1"),
            keras.metrics.SparseTopKCategoricalAccuracy(k=min(5, classes), name="top_5"),
        ],
        steps_per_execution=spec.training.steps_per_execution,
        jit_compile=spec.training.jit_compile,
    )


def make_optimizer(spec: Optimizer) -> "keras.optimizers.Optimizer":
    """Make the Keras optimizer of that name.

    Raises:
        SpecError: an argument that its class does not take, or a value it refuses.
    """
    import keras

    classes = {
        name.lower(): value
        for name, value in vars(keras.optimizers).items()
        if inspect.isclass(value) and issubclass(value, keras.optimizers.Optimizer)
    }
    optimizer = classes.get(spec.name)
    if optimizer is None:
        msg = f"optimizer.name: Keras {keras.__version__} has no '{spec.name}'; update Keras."
        raise SpecError(msg)
    known = set(inspect.signature(optimizer.__init__).parameters) - {
        "self", "learning_rate", "kwargs", "name",
    }  # fmt: skip
    for name in spec.arguments:
        if name not in known:
            hint = registry.nearest(name, known)
            msg = (
                f"optimizer.arguments.{name}: {spec.name} has no such argument.{hint}"
                f" Known: {', '.join(sorted(known))}."
            )
            raise SpecError(msg)
    try:
        return _made(optimizer, spec)
    except (TypeError, ValueError) as error:
        msg = f"optimizer.arguments: {spec.name} refused {dict(spec.arguments)}: {error}"
        raise SpecError(msg) from error


def _made(optimizer: Any, spec: Optimizer) -> "keras.optimizers.Optimizer":
    made: keras.optimizers.Optimizer = optimizer(spec.learning_rate, **spec.arguments)
    return made
