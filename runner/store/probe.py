"""A store that takes every create is found out before two workers believe in one job.

Racers create one key at the same moment, and a latecomer creates it again. A store can be
convicted by this, never acquitted: one that decides wrongly once in a thousand races passes.
So there is also a list of places that are known not to be honest, in `schemes.py`.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from secrets import token_hex
from threading import Barrier

from runner.errors import StoreRefusedError
from runner.store.base import Created, Store

MARKER = "store.json"  #: says that a short probe was passed here
_SHORT_ROUNDS, _SHORT_RACERS = 2, 4


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe found."""

    findings: tuple[str, ...]  #: what the store did wrong; empty: nothing was found
    rounds: int
    racers: int

    @property
    def honest(self) -> bool:
        """Whether nothing speaks against the store."""
        return not self.findings


def probe(store: Store, *, rounds: int = 5, racers: int = 8) -> ProbeResult:
    """Race on keys below "probe/", and remove them again.

    Raises StoreError or StoreRefusedError where the store can't be used at all.
    """
    known = getattr(store, "ignores_conditions", lambda: "")()
    findings = {known} if known else set()
    folder = f"probe/{token_hex(8)}"
    keys = [f"{folder}/{number:06d}.json" for number in range(rounds)]
    try:
        for key in keys:
            findings |= _race(store, key, racers)
        if store.list(f"{folder}/") != keys:
            findings.add("a listing does not show what was just written")
    finally:
        for key in keys:
            store.delete(key)
    if store.read(keys[0]) is not None:
        findings.add("a deleted object is still there")
    return ProbeResult(findings=tuple(sorted(findings)), rounds=rounds, racers=racers)


def _race(store: Store, key: str, racers: int) -> set[str]:
    barrier = Barrier(racers)

    def create(number: int) -> Created:
        barrier.wait(60)
        return store.create(key, _record(number))

    with ThreadPoolExecutor(racers) as pool:
        said = list(pool.map(create, range(racers)))
    return _judge(store, key, said)


def _judge(store: Store, key: str, said: Sequence[Created]) -> set[str]:
    findings = set()
    winners = [number for number, reply in enumerate(said) if reply is Created.YES]
    there = store.read(key)
    if len(winners) > 1:
        findings.add("several racers were told that they had created one object")
    if there not in [_record(number) for number in range(len(said))]:
        findings.add("what was just created can't be read back whole")
    elif len(winners) == 1 and there != _record(winners[0]):
        findings.add("the record there is not that of the racer who was told that it won")
    if store.create(key, _record(len(said))) is Created.YES or store.read(key) != there:
        findings.add("a latecomer's create replaced the object")
    return findings


def _record(number: int) -> bytes:
    return json.dumps({"racer": number, "fill": "x" * 500}).encode() + b"\n"


def check_once(store: Store) -> None:
    """Give a bucket a short probe at its first use, and remember that it passed.

    Raises StoreRefusedError for one that failed. Folders and stores with a single writer need
    none: the system decides the one, the user's promise the other.
    """
    if store.single_writer or not hasattr(store, "ignores_conditions"):
        return
    if store.read(MARKER, max_bytes=10_000) is not None:
        return
    verdict = probe(store, rounds=_SHORT_ROUNDS, racers=_SHORT_RACERS)
    if not verdict.honest:
        raise StoreRefusedError(convicted(store, verdict))
    store.put(MARKER, b'{"probe": "passed"}\n')


def convicted(store: Store, verdict: ProbeResult) -> str:
    """Return the sentence about a store that failed, with the fix."""
    return (
        f"{store.url} can't be shared: {'; '.join(verdict.findings)}. Two workers could both "
        "believe that they own a job. Use a gs://, s3:// or az:// bucket whose service keeps "
        "conditional creates, or promise single_writer in ~/.config/runner/settings.json."
    )
