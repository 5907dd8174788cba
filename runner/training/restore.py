"""A model as a checkpoint has it: for evaluation and export, without the training around it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.checkpoint.manifest import Reference
from runner.checkpoint.reading import read_checkpoint, read_manifest
from runner.datasets.arrays import Dataset
from runner.errors import CheckpointError
from runner.spec import JobSpec
from runner.store.base import Store
from runner.training.assemble import Assembled
from runner.training.build import build

if TYPE_CHECKING:
    import keras

    from runner.checkpoint.plain import Array


def restored_model(
    store: Store, spec: JobSpec, dataset: Dataset, reference: Mapping[str, Any]
) -> Assembled:
    """Build the spec's model and give it a checkpoint's weights and statistics.

    Raises:
        CheckpointError: missing, damaged, or another model's.
    """
    restored = read_checkpoint(store, Reference.from_json(reference))
    assembled = build(spec, dataset)
    _assign(assembled.model, restored.tensors)
    return assembled


def restored_numerics(store: Store, spec: JobSpec, reference: Mapping[str, Any]) -> list[str]:
    """Set this process up as the checkpoint's was; what differs all the same."""
    from runner.training.quiet import import_keras

    import_keras()
    from runner.training import numerics

    saved = read_manifest(store, Reference.from_json(reference).manifest).numerics
    threads = saved.get("threads")
    numerics.apply(
        threads=threads if isinstance(threads, int) else spec.training.threads,
        deterministic=spec.training.deterministic,
    )
    of_a_machine = {key: saved[key] for key in saved if key not in numerics.OF_A_TRAINING}
    return numerics.differences(of_a_machine, numerics.fingerprint())


def _assign(model: "keras.Model", tensors: "Mapping[str, Array]") -> None:
    """Set the model's variables from the tensors of the group `model`, which are in its order."""
    saved = [tensors[name] for name in sorted(tensors) if name.startswith("model/")]
    shapes = [list(array.shape) for array in saved]
    expected = [list(variable.shape) for variable in model.variables]
    if shapes != expected:
        msg = (
            f"the checkpoint holds {len(shapes)} variables of a model, and this one has"
            f" {len(expected)}, or others of other shapes: it is another model's."
        )
        raise CheckpointError(msg)
    for array, variable in zip(saved, model.variables, strict=True):
        variable.assign(array)
