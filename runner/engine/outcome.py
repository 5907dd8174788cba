"""What a job produced, and whether two jobs produced the same, bit for bit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from runner.errors import StoreError
from runner.queue.job import Job
from runner.store.base import Store


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a job produced and that must not depend on who was killed."""

    step: int
    digest: str  #: over all variables of the final checkpoint
    history: Mapping[str, Any]
    evaluation: Mapping[str, Any]  #: the results
    predictions: str  #: a hash of the evaluation's arrays
    notes: tuple[str, ...] = ()


def outcome(store: Store, job: Job) -> Outcome:
    """Read from the bucket what became of a job.

    Raises:
        StoreError: something that its record names can't be read.
    """
    final = job.final or {}
    manifest = json.loads(_must_read(store, str(final.get("manifest", ""))))
    arrays = (job.evaluation_run or {}).get("npz")
    return Outcome(
        step=int(final.get("step", 0)),
        digest=str(final.get("digest", "")),
        history=manifest.get("history") or {},
        evaluation=job.results or {},
        predictions=blake3(_must_read(store, arrays)).hexdigest() if arrays else "",
        notes=job.notes,
    )


def differences(killed: Outcome, undisturbed: Outcome) -> list[str]:
    """Name what differs, the nearest to the cause first; floats are compared bit for bit.

    >>> from dataclasses import replace
    >>> one = Outcome(step=3, digest="", history={}, evaluation={"top_1": 0.5}, predictions="")
    >>> differences(replace(one, evaluation={"top_1": 0.25}), one)
    ['evaluation top_1: 0.25 killed, 0.5 undisturbed']
    """
    found = []
    if killed.step != undisturbed.step:
        found.append(f"final step: {killed.step} killed, {undisturbed.step} undisturbed")
    for name in sorted(killed.history.keys() | undisturbed.history.keys()):
        mine, theirs = killed.history.get(name), undisturbed.history.get(name)
        if _exactly(mine) != _exactly(theirs):
            found.append(f"History {name}: {_first_difference(mine, theirs)}")
    if killed.digest != undisturbed.digest:
        found.append(
            f"final digest: {killed.digest[:16]} killed, {undisturbed.digest[:16]} undisturbed"
        )
    for name in sorted(killed.evaluation.keys() | undisturbed.evaluation.keys()):
        mine, theirs = killed.evaluation.get(name), undisturbed.evaluation.get(name)
        if _exactly(mine) != _exactly(theirs):
            found.append(f"evaluation {name}: {mine} killed, {theirs} undisturbed")
    if killed.predictions != undisturbed.predictions:
        found.append("evaluation: the predictions differ")
    if found:
        found += [f"the killed job says: {n}" for n in killed.notes if n not in undisturbed.notes]
    return found


def _exactly(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # the shortest text that names this very float


def _first_difference(mine: Any, theirs: Any) -> str:
    if not isinstance(mine, list) or not isinstance(theirs, list):
        return "only one of the two has it"
    for epoch, (one, other) in enumerate(zip(mine, theirs, strict=False), start=1):
        if _exactly(one) != _exactly(other):
            return f"{one} killed, {other} undisturbed, first in epoch {epoch}"
    return f"{len(mine)} epochs killed, {len(theirs)} undisturbed"


def _must_read(store: Store, key: str) -> bytes:
    data = store.read(key) if key else None
    if data is None:
        raise StoreError(
            f"{key or 'a final checkpoint'} is not in {store.url}: nothing to compare."
        )
    return data
