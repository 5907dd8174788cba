"""The two stages of a job, each run under a lease: train, then evaluate.

What a stage produces is written first, under names that no other attempt uses; the
record that makes it count comes last, and only the lease's owner can append it.
"""

import gc
import json
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from runner import code
from runner.errors import CheckpointError, SpecError, StoreError
from runner.queue.job import Stage
from runner.queue.lease import Lease
from runner.spec import JobSpec, parse
from runner.store.base import Store
from runner.training.check import obtaining
from runner.training.host import Host

if TYPE_CHECKING:
    from runner.evaluation.evaluate import Evaluation

logger = logging.getLogger(__name__)


class Attempt(Host, Protocol):
    """One claim to its end, as its stage sees it."""

    store: Store
    lease: Lease
    spec: Mapping[str, Any]  #: as the log keeps it

    @property
    def prefix(self) -> str:
        """The job's folder in the store."""


def run_stage(attempt: Attempt) -> None:
    """Run the stage that the job is in, to the record that ends it.

    Raises:
        PreemptedError: asked to stop; the state is saved.
        LeaseLostError: the job is another worker's.
        SpecError, TrainingError, CheckpointError: the job's own fault.
        StoreError: the bucket failed for longer than the job may wait.
    """
    with code.undone(), obtaining():
        spec = parse(attempt.spec, source=attempt.lease.job.id)
        (_train if attempt.lease.job.stage is Stage.TRAIN else _evaluate)(attempt, spec)


def _train(attempt: Attempt, spec: JobSpec) -> None:
    from runner.training.trainer import Past, train

    job = attempt.lease.job
    past = Past(
        store=attempt.store,
        prefix=attempt.prefix,
        token=attempt.lease.token,
        checkpoints=job.checkpoints,
        best=job.best,
        weights=job.parent["reference"] if job.parent and not job.checkpoints else None,
        running_seconds=job.worked_seconds,
        interruptions=job.preemptions,
    )
    trained = train(spec, past, attempt)
    evaluate = spec.evaluation is not None and trained.evaluates
    weights = {"weights": trained.weights} if trained.weights else {}
    attempt.lease.finish(final={**trained.final.to_json(), **weights}, evaluate=evaluate)


def _evaluate(attempt: Attempt, spec: JobSpec) -> None:
    from runner.training.quiet import import_keras

    gc.collect()  # the data of a training that went before in this process
    import_keras()
    from runner.evaluation.measure import measure
    from runner.training.restore import restored_program

    if spec.evaluation is None:
        raise SpecError(f"{spec.name} is to be evaluated, but its spec has no evaluation.")
    job = attempt.lease.job
    reference = job.best if spec.evaluation.checkpoint == "best" else job.final
    if reference is None:
        msg = f"{spec.name} has no {spec.evaluation.checkpoint} checkpoint to evaluate."
        raise CheckpointError(msg)
    program, differences = restored_program(attempt.store, spec, reference)
    evaluation = measure(program, attempt)
    notes = [f"evaluated on different numerics: {', '.join(differences)}"] if differences else []
    if spec.evaluation.checkpoint == "best":
        notes.append(f"tested: the best checkpoint, of epoch {reference.get('epoch')}")
    stored = _store_evaluation(attempt, evaluation)
    attempt.lease.finish(evaluation=stored, notes=notes)
    _remove_leftovers(attempt, {stored["json"], stored["npz"]})


#: what is written here, no others' files; the first versions had names of 16 random digits
_EVALUATED = re.compile(r"t\d+-([0-9a-f]{16}|[0-9a-f]{32})\.(json|npz)")


def _store_evaluation(attempt: Attempt, evaluation: "Evaluation") -> dict[str, Any]:
    """Write the results; return what the job's record keeps of them: the scalars, and where.

    Their names end in the hash of their bytes, as a manifest's does.
    """
    from runner.checkpoint.packs import hash_bytes

    document = {**evaluation.metrics, "timing": dict(evaluation.timing)}
    places = {}
    for kind, data in (
        ("json", json.dumps(document, indent=1).encode()),
        ("npz", evaluation.npz()),
    ):
        name = f"t{attempt.lease.token}-{hash_bytes(data)[:32]}.{kind}"
        places[kind] = f"{attempt.prefix}/evaluation/{name}"
        attempt.store.put(places[kind], data)
    of_program = attempt.spec.get("program") is not None  # null: not finite; else not measured
    scalars = {
        key: value
        for key, value in evaluation.metrics.items()
        if isinstance(value, int | float) or (of_program and value is None)
    }
    return {
        **scalars,
        **{k: v for k, v in evaluation.timing.items() if k == "images_per_second"},
        **places,
    }


def _remove_leftovers(attempt: Attempt, kept: set[str]) -> None:
    """Remove what attempts that died had written: no record names it, and none can any more."""
    try:
        for key in attempt.store.list(f"{attempt.prefix}/evaluation/"):
            if key not in kept and _EVALUATED.fullmatch(key.rpartition("/")[2]):
                attempt.store.delete(key)
    except StoreError as error:
        logger.warning("leftovers of earlier evaluations stay: %s", error)
