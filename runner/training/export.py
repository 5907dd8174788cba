"""A trained model as one `.keras` file; of images: uint8 in, class probabilities out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.errors import DataError
from runner.spec import parse
from runner.store.allowed import paths_of, refusal
from runner.store.base import Store
from runner.training.quiet import import_keras


def export(
    store: Store, job_id: str, spec: Mapping[str, Any], reference: Mapping[str, Any], path: Path
) -> None:
    """Write the model of a checkpoint; the file appears whole or not at all.

    Raises:
        CheckpointError: the checkpoint is damaged.
        DataError: the data, which the model is made for, cannot be read.
    """
    import_keras()
    from runner.training import private
    from runner.training.restore import restored_program

    parsed = parse(spec, source=job_id)
    for why in filter(None, (refusal(one, store.url) for one in paths_of(spec, begun=True))):
        raise DataError(f"{job_id} can't be exported here: {why}")
    program, _ = restored_program(store, parsed, reference)
    partial = path.with_name(f".{path.stem}-partial.keras")
    try:
        with private.tensorflow_unasked():
            program.model.save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
