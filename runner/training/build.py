"""The compiled model of a spec: the same spec and data give the same model, bit for bit."""

import inspect
from typing import TYPE_CHECKING, Any

from runner import registry
from runner.datasets.arrays import Dataset
from runner.errors import MissingHereError, SpecError
from runner.spec import JobSpec, as_called
from runner.specparts import Optimizer, Phase
from runner.training.assemble import Assembled, assemble

if TYPE_CHECKING:
    import keras


def build(spec: JobSpec, dataset: Dataset, *, devices: int = 1) -> Assembled:
    """Build the spec's model for these images; `compile_phase` makes it ready for training.

    Args:
        spec: of the job.
        dataset: its images.
        devices: that the model is trained on.

    Raises:
        SpecError: the arguments don't fit the network.
    """
    function = registry.get("models", spec.model.name)
    return assemble(
        function,
        as_called(function, "models", spec.model.arguments),
        image_shape=dataset.image_shape,
        classes=dataset.classes,
        augmentation=spec.augmentation.model_dump() if spec.augmentation else None,
        seed=spec.seed,
        dtype_policy=spec.training.dtype_policy,
        devices=devices,
    )


def compile_phase(assembled: Assembled, spec: JobSpec, phase: Phase | None) -> None:
    """Set what trains, and give the model a new optimizer, cross-entropy, top-1 and top-5.

    Raises:
        SpecError: the arguments don't fit the optimizer.
    """
    optimizer = spec.optimizer
    if phase is not None:
        train_from(assembled.network, phase.train_from)
        if phase.learning_rate is not None:
            optimizer = optimizer.model_copy(update={"learning_rate": phase.learning_rate})
    compile_model(assembled.model, spec, assembled.classes, make_optimizer(optimizer))


def train_from(network: "keras.Model", number: int) -> None:
    """Let the layers before `number` keep their weights and statistics, and the others train.

    The layers are those of the network inside, where there is one (transfer learning): its head
    always trains.
    """
    inside = [layer for layer in network.layers if hasattr(layer, "layers")]
    layers = (inside[0] if inside else network).layers
    first = number if number >= 0 else len(layers) + number
    for layer in {*network.layers} - {*inside}:
        layer.trainable = True
    for index, layer in enumerate(layers):
        layer.trainable = index >= first  # each by itself: a model that is trainable sets nothing


def compile_model(
    model: "keras.Model", spec: JobSpec, classes: int, optimizer: "keras.optimizers.Optimizer"
) -> None:
    """Give the model its optimizer, cross-entropy, and top-1 and top-5 accuracy."""
    import keras

    model.compile(
        optimizer=optimizer,
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
        MissingHereError: this machine's Keras is too old.
        SpecError: an argument that its class does not take, or a value it refuses.
    """
    import keras

    classes = {
        name.lower(): value
        for name, value in vars(keras.optimizers).items()
        if inspect.isclass(value) and issubclass(value, keras.optimizers.Optimizer)
    }
    optimizer: Any = classes.get(spec.name)
    if optimizer is None:
        msg = f"optimizer.name: Keras {keras.__version__} has no '{spec.name}'; update Keras."
        raise MissingHereError(msg)
    try:
        # named, since Keras would count the optimizers of the process into the variables' names
        made: keras.optimizers.Optimizer = optimizer(
            spec.learning_rate, name=spec.name, **spec.arguments
        )
    except (TypeError, ValueError) as error:
        msg = f"optimizer.arguments: {spec.name} refused {dict(spec.arguments)}: {error}"
        raise SpecError(msg) from error
    return made
