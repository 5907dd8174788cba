"""`from` in a spec: what a new job goes on with is brought into its folder before it is stored."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from runner.checkpoint.forking import bring
from runner.checkpoint.manifest import Manifest, Position, Reference
from runner.checkpoint.reading import read_manifest
from runner.errors import (
    CheckpointError,
    ConflictError,
    NotFoundError,
    NotReadyError,
    SpecError,
)
from runner.queue.job import Job, Json, State
from runner.queue.protocol import base
from runner.queue.queue import Queue
from runner.queue.texts import differences
from runner.spec import JobSpec
from runner.training.best import Best

TRIES = 5  #: while the other job trains on, and collects what we want
#: fields of record 0 of a job that goes on from another
BEGINNING = ("parent", "checkpoints", "best", "step", "epoch", "metrics", "notes")
_OF = "of "  #: begins the notes of the jobs before
_OF_A_JOB = ("name", "description", "from", "after", "priority", "requirements", "budget")


def beginning(queue: Queue, spec: JobSpec, *, brings: bool = True) -> dict[str, Any]:
    """Return the fields of a job's record 0 that say what it goes on with, which is brought here.

    A death before that record leaves objects that no record names: `runner doctor` lists them.
    Unless it `brings`, it only checks what can be checked, and returns nothing.

    Raises:
        NotFoundError: there is no such job, or no such checkpoint of it.
        SpecError: there would be nothing to train.
        CheckpointError: the checkpoint is damaged.
    """
    if spec.from_ is None or spec.from_.job is None:
        return {}
    parent = queue.job(spec.from_.job)
    for _ in range(TRIES):
        reference = reference_of(parent, spec.from_.checkpoint, spec.name)
        try:
            manifest = read_manifest(queue.store, Reference.from_json(reference).manifest)
            if spec.from_.take == "all":
                _continued(manifest.position, spec, parent.id)
            if not brings:
                return {}
            if spec.from_.take == "weights":
                return _weights(queue, spec, parent, manifest)
            return _whole(queue, spec, parent, manifest)
        except CheckpointError:
            newer = queue.job(parent.id)
            if newer.number == parent.number:
                raise
            parent = newer
    raise NotReadyError(f"{parent.id} replaces its checkpoints too fast. Hold it, or try later.")


def require_begun(queue: Queue, spec: JobSpec, job: Job) -> None:
    """Look whether what a job that was just stored goes on with is there, and bring it again.

    If the name's earlier job was being removed, the same objects of that may have gone later.

    Raises:
        ConflictError: it is gone again and again.
    """
    for _ in range(TRIES):
        if job.number or _has_begun(queue, job):
            return
        beginning(queue, spec)
    raise ConflictError(
        f"{job.id} is stored, but what it goes on with is deleted: someone removes an earlier job "
        f"of that name. Once that has ended: 'runner remove {job.id}', and submit it again."
    )


def _has_begun(queue: Queue, job: Job) -> bool:
    references = [*job.checkpoints, job.best, (job.parent or {}).get("reference")]
    try:
        for key in {Reference.from_json(one).manifest for one in references if one}:
            for pack in read_manifest(queue.store, key).packs:
                if queue.store.size(pack.key) != pack.bytes:
                    return False
    except CheckpointError:
        return False
    return True


def reference_of(job: Job, wanted: str | int, child: str) -> Json:
    """Return the reference to a job's final, best or latest checkpoint, or to that of a step.

    Args:
        job: that has it.
        wanted: "final", "best", "latest" or a step.
        child: the job that is to go on from there.

    Raises:
        NotFoundError: the job has none; names those that it has. NotReadyError: it may yet.
    """
    latest = next(iter(job.checkpoints), None)
    named = {"final": job.final, "best": job.best, "latest": latest}
    kept = [one for one in (*named.values(), *job.checkpoints) if one]
    known = {**named, **{one["step"]: one for one in kept}}
    if (found := known.get(wanted)) is not None:
        return found
    which = f"no {wanted} checkpoint" if wanted in named else f"no checkpoint {wanted}"
    has = [str(name) for name, one in known.items() if one]
    hint = f": add --set from.checkpoint={has[0]}" if has else " yet"
    if not job.ended and wanted in named:
        hint += f". Submit {child} once {job.id} has ended"
    what = f"{child} cannot go on from {job.id} ({job.state.value}), which has {which}"
    kind = NotFoundError if job.state is State.SUCCEEDED else NotReadyError
    raise kind(f"{what}. It has {', '.join(has) or 'none'}{hint}.")


def _weights(queue: Queue, spec: JobSpec, parent: Job, manifest: Manifest) -> dict[str, Any]:
    reference = bring(queue.store, manifest, base(spec.name))
    return {"parent": _origin(spec, parent, reference)}


def _whole(queue: Queue, spec: JobSpec, parent: Job, manifest: Manifest) -> dict[str, Any]:
    folder, position = base(spec.name), _continued(manifest.position, spec, parent.id)
    best = _best(spec, parent, manifest)
    if best is None:  # no state may remember a best that is nowhere
        kept = None
        manifest = replace(manifest, python={**manifest.python, "best": None})
    else:
        kept = bring(queue.store, read_manifest(queue.store, best["manifest"]), folder).to_json()
    reference = bring(queue.store, replace(manifest, position=position), folder)
    changed = _changes(queue.spec(parent.id, parent.spec_digest), spec.effective())
    said = [*_warnings(manifest, position), *([f"{parent.id} had {changed}"] if changed else [])]
    return {
        "parent": _origin(spec, parent, reference),
        "checkpoints": (reference.to_json(),),
        "best": kept,
        "step": reference.step,
        "epoch": reference.epoch,
        "metrics": {name: values[-1] for name, values in manifest.history.items() if values},
        "notes": (*_named(parent), *(text[:500] for text in said))[-20:],
    }


def _named(parent: Job) -> Iterator[str]:
    """Yield what its record says of the training so far, and of whose."""
    for note in parent.notes:
        yield note if note.startswith(_OF) else f"{_OF}{parent.id}: {note}"


def _origin(spec: JobSpec, parent: Job, reference: Reference) -> dict[str, Any]:
    return {
        "job": parent.id,
        "step": reference.step,
        "epoch": reference.epoch,
        "take": spec.from_.take if spec.from_ else "all",
        "reference": reference.to_json(),
    }


def _continued(position: Position, spec: JobSpec, parent: str) -> Position:
    """Return where the new job begins: what had ended the other one early does not end this one.

    Raises:
        SpecError: it would have nothing to train.
    """
    phases = spec.training.phases or (spec.training,)
    if position.phase >= len(phases):
        msg = f"training.phases: received {len(phases)}, but {parent} is in phase"
        raise SpecError(
            f'{msg} {position.phase + 1}. Name all of its phases, or "take": "weights".'
        )
    if position.phase + 1 < len(phases):
        return position
    epochs = position.phase_epoch + phases[-1].epochs
    if position.epoch >= epochs:
        msg = f"training.epochs: received {phases[-1].epochs}, but the checkpoint of {parent} is"
        raise SpecError(f"{msg} after epoch {position.epoch}. Give more epochs, in all.")
    return replace(position, stop=False)


def _best(spec: JobSpec, parent: Job, manifest: Manifest) -> Json | None:
    """Return the best checkpoint so far, where the new job follows the same metric."""
    saved, mine = manifest.python.get("best"), spec.checkpoint.best
    if not saved or not mine or not parent.best:
        return None
    same = (
        Best(mine.monitor, mine.mode).to_json().items()
        >= {name: saved.get(name) for name in ("monitor", "mode")}.items()
    )
    earlier = parent.best["step"] <= manifest.position.global_step
    return parent.best if same and earlier else None


def _changes(there: Json, here: Json) -> str:
    """Return in words what the other spec says of the training that this one does not."""
    found = differences(there, here)
    return "; ".join(
        f"{name} {_short(was)}, now {_short(now)}"
        for name, (was, now) in found.items()
        if name.partition(".")[0] not in _OF_A_JOB
    )


def _short(value: object) -> str:
    """Return a value as JSON has it; "unset" for a field that is not given."""
    return "unset" if value is None else f"{json.dumps(value, ensure_ascii=False):.60}"


def _warnings(manifest: Manifest, position: Position) -> Iterator[str]:
    """Yield why this is not what so many epochs in one go would be."""
    if manifest.position.stop and not position.stop:
        yield f"goes on although a callback had stopped it after epoch {position.epoch}"
    program: Mapping[str, Any] = manifest.python.get("program") or {}
    if manifest.position.moment == "final" and program.get("optimizer.use_ema"):
        yield "goes on from averaged weights (optimizer use_ema), as the training had ended"
