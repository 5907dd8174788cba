"""A trained model as one file; of images: uint8 in, class probabilities out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.errors import DataError, SpecError
from runner.spec import parse
from runner.store.allowed import paths_of, refusal
from runner.store.base import Store
from runner.training.check import naming
from runner.training.quiet import import_keras


def export(
    store: Store, job_id: str, spec: Mapping[str, Any], reference: Mapping[str, Any], path: Path
) -> list[str]:
    """Write the model of a checkpoint, or its weights; the file appears whole or not at all.

    Returns:
        In which way the user's code is not that which trained it, in words.

    Raises:
        CheckpointError: the checkpoint is damaged.
        DataError: the data, which the model is made for, cannot be read.
        SpecError: a model of the user's own class can't be saved whole.
    """
    import_keras()
    from runner.training import private
    from runner.training.restore import restored_program

    parsed = parse(spec, source=job_id)
    for why in filter(None, (refusal(one, store.url) for one in paths_of(spec, begun=True))):
        raise DataError(f"{job_id} can't be exported here: {why}")
    with naming(job_id, "its program can't be run here"):
        program, differences = restored_program(store, parsed, reference)
    partial = path.with_name(f".partial-{path.name}")
    try:
        with private.tensorflow_unasked():
            model = program.model
            model.built = True  # Keras asks it; one of the user's own class may have no call
            (model.save if path.suffix == ".keras" else model.save_weights)(partial)
        partial.replace(path)
    except (NotImplementedError, TypeError) as error:  # what get_config of a user's class raises
        why = " ".join(str(error).partition("Example:")[0].split())
        msg = f"{job_id} can't be exported as a whole: {why} Its weights can: FILE.weights.h5."
        raise SpecError(msg) from error
    finally:
        partial.unlink(missing_ok=True)
    return [one for one in differences if one.startswith("code ")]
