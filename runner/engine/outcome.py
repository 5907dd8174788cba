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
    rows: list[tuple[str, Any, Any]] = [("final step", killed.step, undisturbed.step)]
    rows += _named("History ", killed.history, undisturbed.history)
    rows.append(("final digest", killed.digest[:16], undisturbed.digest[:16]))
    rows += _named("evaluation ", killed.evaluation, undisturbed.evaluation)
    found = [
        f"{name}: {_first_difference(mine, theirs)}"
        for name, mine, theirs in rows
        if _exactly(mine) != _exactly(theirs)
    ]
    if killed.predictions != undisturbed.predictions:
        found.append("evaluation: the predictions differ")
    if found:
        found += [f"the killed job says: {n}" for n in killed.notes if n not in undisturbed.notes]
    return found


def _named(
    kind: str, killed: Mapping[str, Any], undisturbed: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    names = sorted(killed.keys() | undisturbed.keys())
    return [(f"{kind}{name}", killed.get(name), undisturbed.get(name)) for name in names]


def _exactly(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # the shortest text that names this very float


def _first_difference(mine: Any, theirs: Any) -> str:
    if isinstance(mine, list) != isinstance(theirs, list):
        return "only one of the two has it"
    if not isinstance(mine, list):
        return f"{mine} killed, {theirs} undisturbed"
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
