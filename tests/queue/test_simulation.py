"""The protocol holds under thousands of schedules, and the simulator would see if it did not."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from runner.errors import ConflictError, NotFoundError
from runner.queue import job as jobs
from runner.queue import removal
from runner.queue.job import Job, State
from runner.store import appending, log, thinning
from runner.store.base import Created
from runner.store.log import Record
from runner.store.steps import Create, List, Read, Steps
from tests.queue.simulator import Simulation, ViolationError


def simulate(seeds: range, **broken: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        try:
            result = Simulation(seed, **broken).run()
        except ViolationError as violation:
            raise ViolationError(f"seed {seed}: {violation}") from violation
        counts += result.counts
        counts["ticks"] += result.ticks
    return counts


def test_no_promise_is_broken_in_600_schedules() -> None:
    counts = simulate(range(600))
    assert counts["takeovers"] > 100
    assert counts["leases lost"] > 100
    assert counts["lost replies"] > 100
    assert counts["own resends"] > 50
    assert counts["late landings"] > 30
    assert counts["holds obeyed"] > 20
    assert counts["held at a claim"] > 20
    assert counts["remove"] > 20
    assert counts["thinned out"] > 500
    assert counts["holes filled"] > 5


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
def test_no_promise_is_broken_in_20_000_schedules(part: int) -> None:
    counts = simulate(range(1_000 + 2_000 * part, 3_000 + 2_000 * part))
    print(dict(counts))


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert Simulation(7).run() == Simulation(7).run()


# What the simulator must catch: each of these breaks the protocol in one place.


def no_read_back(base: str, record: Record, *_before: Any, **_options: Any) -> Steps[Record]:
    key = log.slot(base, record["number"])
    said = yield Create(key, log.encode(record))
    if said is not Created.YES:
        raise ConflictError("someone was first")
    return record


def exists_is_ours(base: str, record: Record, *_before: Any, **_options: Any) -> Steps[Record]:
    yield Create(log.slot(base, record["number"]), log.encode(record))
    return record


def moves_on_unresolved(base: str, record: Record, *_: Any, **_options: Any) -> Steps[Record]:
    """In doubt, the next number is tried: a late create then lands in the middle."""
    key = log.slot(base, record["number"])
    said = yield Create(key, log.encode(record))
    if said is Created.UNKNOWN:
        record = {**record, "number": record["number"] + 1}
        yield Create(log.slot(base, record["number"]), log.encode(record))
        return record
    if said is Created.YES:
        return record
    found = yield Read(key)
    return log.decode(found, key)


def hint_is_head(base: str, *_known: Any, **_options: Any) -> Steps[Record | None]:
    data = yield Read(log.hint(base))
    return None if data is None else log.decode(data, "hint")


def held_without_a_reason(job: Job, deaths: int) -> Job:
    return replace(job, kind="quarantine", state=State.HELD, owner=None, most_deaths=9)


def quarantines_at_once(patch: pytest.MonkeyPatch) -> None:
    """The first death holds the job: a preempted training would wait for its user."""
    claimed = jobs.claimed

    def mutant(job: Job, **arguments: Any) -> Job:
        if job.state is State.RUNNING and job.nonce == arguments["seen"].nonce:
            return held_without_a_reason(job, 1)
        return claimed(job, **arguments)

    patch.setattr(jobs, "claimed", mutant)


def removes_what_runs(patch: pytest.MonkeyPatch) -> None:
    """The record is decided from what was seen, not from what follows it."""

    def mutant(job: Job, seen: Job) -> Job:
        return removed(seen, seen)

    removed = removal.removed
    patch.setattr(removal, "removed", mutant)


def counts_unseen(base: str, record: Record, before: Record) -> Steps[bool]:
    """A claim in the place of a commit that was thinned out: two workers own the job."""
    yield List(f"{base}/log/")
    return True


def thins_out_all(patch: pytest.MonkeyPatch) -> None:
    """The first commit behind a claim goes too: nobody can tell that the claim counts."""
    committed = thinning.Thinning.committed

    def mutant(self: Any, number: int) -> Steps[None]:
        self._newest = number - 1
        yield from committed(self, number)

    patch.setattr(thinning.Thinning, "committed", mutant)


def keeps_too_few(patch: pytest.MonkeyPatch) -> None:
    """The newest commits go, but for two: a listing that is stale shows none of them."""
    committed = thinning.Thinning.committed

    def mutant(self: Any, number: int) -> Steps[None]:
        with patch.context() as within:
            within.setattr(thinning, "KEPT", 1)
            yield from committed(self, number)

    patch.setattr(thinning.Thinning, "committed", mutant)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no read-back": lambda patch: patch.setattr(appending, "settle", no_read_back),
    "exists is ours": lambda patch: patch.setattr(appending, "settle", exists_is_ours),
    "moves on unresolved": lambda patch: patch.setattr(appending, "settle", moves_on_unresolved),
    "no token check": lambda patch: patch.setattr(jobs, "held_by", lambda *_: None),
    "quarantine at the first death": quarantines_at_once,
    "a running job is removed": removes_what_runs,
    "a filled hole counts": lambda patch: patch.setattr(appending, "_counts", counts_unseen),
    "the first commit is thinned out": thins_out_all,
    "the newest commits are thinned out": keeps_too_few,
    "the hint is the head": lambda patch: patch.setattr(log, "head", hint_is_head),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_protocol_is_caught(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(ViolationError):
        simulate(range(300))


@pytest.mark.parametrize("broken", ["overwrite", "collect"])
def test_a_store_that_breaks_the_rules_is_caught(broken: str) -> None:
    """Creates that overwrite; log records that are deleted while the job can be written."""
    with pytest.raises((ViolationError, NotFoundError)):  # a writer may find no log any more
        simulate(range(300), **{broken: True})
