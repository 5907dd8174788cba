"""A log stays short however often its owner commits, and nobody takes a gap for its end."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from time import sleep
from typing import Any

import pytest

from runner.commit import Commit
from runner.errors import (
    ConflictError,
    DamagedRecordError,
    LeaseLostError,
    NotFoundError,
    StoreError,
)
from runner.queue import job as jobs
from runner.queue import protocol
from runner.queue.job import Job, State
from runner.queue.lease import Lease
from runner.queue.queue import Queue, utc_now
from runner.queue.removal import leftovers
from runner.report.collect import collect
from runner.store import checkup, log
from runner.store.steps import Create, Put, Steps, perform, run
from runner.store.thinning import AT_ONCE, FEW, KEPT, listed
from tests.store.memory import Fault, Killed, MemoryStore

BASE = "jobs/cats"
LIMIT = KEPT + AT_ONCE


def queue_of(store: MemoryStore) -> Queue:
    return Queue(store, lease_seconds=60.0)


def commit(lease: Lease, *steps: int) -> None:
    for step in steps:
        lease.commit(Commit(step=step, epoch=0))


def claimed(store: MemoryStore, commits: int = 0) -> Lease:
    lease = queue_of(store).claim(queue_of(store).submit("cats", {"seed": 1}), {"host": "a"})
    commit(lease, *range(1, commits + 1))
    return lease


def taken_over(store: MemoryStore, host: str = "b") -> Lease:
    """Another worker claims the job, whose owner gives no sign of life any more."""
    job = queue_of(store).job("cats")
    free = protocol.Availability(claimable=True, why="its worker is gone")
    return queue_of(store).claim(job, {"host": host}, judged=free)


def records(store: MemoryStore) -> list[int]:
    return log.numbers(store.list(f"{BASE}/log/"))


def test_a_log_stays_short() -> None:
    """Its first records stay, its newest too, and the job is what it would be."""
    store = MemoryStore()
    lease = claimed(store)
    for step in range(1, 1001):
        commit(lease, step)
        assert len(records(store)) <= LIMIT + 3
    lease.finish(final={"step": 1000})
    there = records(store)
    assert there[:3] == [0, 1, 2], "the submit, the claim, its first commit"
    assert there[-KEPT:] == list(range(there[-1] - KEPT + 1, there[-1] + 1))
    assert (queue_of(store).job("cats").step, there[-1]) == (1000, 1002)


@pytest.mark.parametrize("commits", [400, 2_000])
def test_requests_do_not_grow_with_the_commits(commits: int) -> None:
    """Status, takeover, renewal, hold and a look by one who knew an old record."""
    store = MemoryStore()
    lease = claimed(store, 20)
    old = queue_of(store).job("cats")
    commit(lease, *range(21, commits))
    asked: list[str] = []
    store.hook = lambda _number, operation, _key: asked.append(operation)

    def requests(work: Callable[[], object]) -> int:
        asked.clear()
        work()
        return len(asked)

    queue = queue_of(store)
    assert requests(lambda: queue.job("cats")) == 2
    assert requests(lambda: queue.look(["cats"], {"cats": old})) == 2
    assert requests(lease.renew) == 3
    assert requests(lambda: taken_over(store)) <= 11
    assert asked.count("list") == 1
    assert requests(lambda: queue.hold("cats")) <= 11
    assert asked.count("list") == 1


def late(
    store: MemoryStore, steps: Steps[Any], meanwhile: Callable[[], None], before: type = Create
) -> Any:
    """Run a protocol whose process sleeps right before it creates its record, or its copy."""
    reply: object = None
    while True:
        try:
            operation = steps.send(reply)
        except StopIteration as end:
            return end.value
        if isinstance(operation, before):
            meanwhile()
            meanwhile = lambda: None  # noqa: E731
        reply = perform(store, operation, sleep=lambda _seconds: None)


def tools() -> dict[str, Any]:
    queue = queue_of(MemoryStore())
    return {"nonce": queue._nonce, "now": queue._now}


def test_a_late_claim_in_the_place_of_a_commit_is_no_claim() -> None:
    """Its worker is told so, whoever looks sees the owner, and the owner goes on."""
    store = MemoryStore()
    lease = claimed(store, 10)
    steps = protocol.claim(lease.job, {"host": "late"}, lease_seconds=60.0, **tools())
    with pytest.raises(ConflictError, match="not as it was"):
        late(store, steps, lambda: commit(lease, *range(11, 11 + LIMIT + 10)))
    filled = log.decode(store.read(log.slot(BASE, 12)) or b"", "12")
    assert filled["owner"] == {"host": "late"}, "else nothing was tried here"
    assert queue_of(store).job("cats").owner == {"host": "a"}
    commit(lease, 500)
    assert queue_of(store).job("cats").step == 500
    store.delete(log.hint(BASE))
    assert queue_of(store).job("cats").step == 500


@pytest.mark.parametrize("fault", [Fault.REPLY_LOST, Fault.SAYS_EXISTS])
def test_a_late_cancel_cancels_what_there_is_now(fault: Fault) -> None:
    """Also where the reply to its create was lost."""
    store = MemoryStore()
    lease = claimed(store, 10)

    def meanwhile() -> None:
        commit(lease, *range(11, 11 + LIMIT + 10))
        faults = iter([fault])
        store.hook = lambda _n, operation, _key: (
            next(faults, None) if operation == "create" else None
        )

    found = late(store, protocol.cancel("cats", **tools()), meanwhile)
    store.hook = None
    assert (found.state, found.step) == (State.CANCELLED, 10 + LIMIT + 10)
    assert queue_of(store).job("cats") == found
    with pytest.raises(LeaseLostError):
        commit(lease, 500)


def test_a_claim_upon_a_claim_that_filled_a_hole_is_none_either() -> None:
    """The first of them died before it could see that."""
    store = MemoryStore()
    lease = claimed(store, 10)
    old = lease.job
    commit(lease, *range(11, 11 + LIMIT + 10))
    wrong = jobs.claimed(old, seen=old, owner={"host": "dead"}, lease_seconds=60.0)
    record = {**jobs.to_json(wrong), "number": 12, "nonce": "x", "previous": old.nonce}
    assert store.create(log.slot(BASE, 12), log.encode(record)).value == "yes"
    seen = jobs.from_json(record, "cats")
    with pytest.raises(ConflictError, match="not as it was"):
        run(store, protocol.claim(seen, {"host": "b"}, lease_seconds=60.0, **tools()))
    assert log.decode(store.read(log.slot(BASE, 13)) or b"", "13")["owner"] == {"host": "b"}
    commit(lease, 500)
    assert queue_of(store).job("cats").step == 500


def test_a_claim_counts_however_long_its_worker_sleeps_behind_it() -> None:
    """Others have held and released it since: the claim was one all the same."""
    store = MemoryStore()
    lease = claimed(store, 10)
    steps = protocol.change("cats", partial(jobs.prioritized, priority=3), **tools())
    created = False

    def asleep(number: int, operation: str, key: str) -> None:
        nonlocal created
        if operation == "list" and not created:
            created = True
            store.hook = None
            commit(lease, *range(11, 11 + 2 * LIMIT))

    store.hook = asleep
    found = run(store, steps)
    assert (created, found.number, found.priority) == (True, 12, 3)
    assert [one for one in records(store) if one < 20] == [0, 1, 2, 11, 12, 13]
    assert queue_of(store).job("cats").priority == 3


def test_a_view_from_long_ago_finds_the_newest_record() -> None:
    """A worker that knew the job at an early commit: what followed that is gone."""
    store = MemoryStore()
    lease = claimed(store, 10)
    old = queue_of(store).job("cats")
    commit(lease, *range(11, 11 + 3 * LIMIT))
    queue = queue_of(store)
    assert [job.step for job in queue.look(["cats"], {"cats": old})] == [10 + 3 * LIMIT]
    assert run(store, log.head(BASE, jobs.to_json(old))) == run(store, log.head(BASE))
    with pytest.raises(ConflictError, match="not as it was"):
        queue.claim(old, {"host": "b"}, judged=protocol.Availability(claimable=True, why=""))


def test_a_copy_from_long_ago_is_put_right_by_whoever_writes() -> None:
    store = MemoryStore()
    lease = claimed(store, 10)
    copy = store.read(log.hint(BASE)) or b""
    commit(lease, *range(11, 11 + 3 * LIMIT))
    store.put(log.hint(BASE), copy)
    assert queue_of(store).cancel("cats").step == 10 + 3 * LIMIT
    assert queue_of(store).job("cats").state is State.CANCELLED


def test_a_late_change_in_the_last_hole_and_an_old_copy() -> None:
    """Whoever walks over it comes to a record that does not follow it: no rule is broken."""
    store = MemoryStore()
    lease = claimed(store, 50)
    copy, old = store.read(log.hint(BASE)) or b"", lease.job
    commit(lease, *range(51, LIMIT + 2))
    assert records(store)[:4] == [0, 1, 2, 53]
    late = {**jobs.to_json(jobs.prioritized(old, 3)), "number": 52, "nonce": "x"}
    late["previous"] = old.nonce
    assert store.create(log.slot(BASE, 52), log.encode(late)).value == "yes"
    store.put(log.hint(BASE), copy)
    assert queue_of(store).job("cats").step == LIMIT + 1
    assert [job.step for job in queue_of(store).jobs()] == [LIMIT + 1]
    assert run(store, log.head(BASE, late)) == run(store, log.head(BASE, hinted=False))
    assert queue_of(store).cancel("cats").step == LIMIT + 1


@pytest.mark.parametrize("who", ["owner", "user"])
def test_a_copy_that_comes_late_hides_nothing(who: str) -> None:
    """Its writer slept between record and copy; another worker has taken over and ended."""
    store = MemoryStore()
    lease = claimed(store, 5)
    truth: list[Job] = []

    def meanwhile() -> None:
        other = taken_over(store) if who == "owner" else lease
        commit(other, *range(7, 7 + 2 * LIMIT))
        truth.append(other.end(partial(jobs.held, reason="enough")))

    commits = partial(jobs.committed, commit=Commit(step=6, epoch=0))
    steps: Steps[Any] = lease._holder.commit(commits)
    if who == "user":
        steps = protocol.change("cats", partial(jobs.prioritized, priority=3), **tools())
    late(store, steps, meanwhile, before=Put)
    assert log.decode(store.read(log.hint(BASE)) or b"", "copy")["number"] < 10
    queue = queue_of(store)
    assert queue.job("cats") == truth[0]
    assert queue.jobs() == truth
    assert queue.look(["cats"], {"cats": lease.job}) == truth
    assert queue.unhold("cats").state is State.QUEUED
    assert log.decode(store.read(log.hint(BASE)) or b"", "copy")["kind"] == "unhold"


@pytest.mark.parametrize("commits", [15, 40, 149])
def test_short_attempts_leave_few_records(commits: int) -> None:
    """Of each the claim, the first commit and the last."""
    store = MemoryStore()
    lease, step = claimed(store), 0
    for attempt in range(40):
        commit(lease, *range(step + 1, step + commits + 1))
        step += commits
        lease = taken_over(store, f"w{attempt}")
    assert len(records(store)) <= 4 * 40 + commits
    assert run(store, listed(BASE))[1] is None
    assert queue_of(store).job("cats").step == step


@pytest.mark.parametrize("again", [None, {"seed": 1}, {"seed": 2}])
@pytest.mark.parametrize("commits", [None, 0, 3])
@pytest.mark.parametrize("change", ["claim", "cancel", "priority"])
def test_what_comes_late_to_a_job_that_was_removed_is_taken_back(
    change: str, commits: int | None, again: Any
) -> None:
    """Also where its name was given anew: that job is another one. None: it had no owner."""
    store = MemoryStore()
    if commits is None:
        queue_of(store).submit("cats", {"seed": 1})
    else:
        claimed(store, commits).release("notice")
    old = queue_of(store).job("cats")
    after: list[tuple[list[str], Job | None]] = []

    def meanwhile() -> None:
        queue_of(store).remove("cats")
        if again:
            sleep(0.001)  # times of submission differ
            queue_of(store).submit("cats", again)
        after.append((store.list("jobs/"), queue_of(store).find("cats")))

    steps = {
        "claim": protocol.claim(old, {"host": "late"}, lease_seconds=60.0, **tools()),
        "cancel": protocol.cancel("cats", **tools()),
        "priority": protocol.change(
            "cats", partial(jobs.prioritized, priority=3), known=old, **tools()
        ),
    }[change]
    with pytest.raises((ConflictError, NotFoundError)):
        late(store, steps, meanwhile)
    assert (store.list("jobs/"), queue_of(store).find("cats")) == after[0]


def test_a_change_counts_though_its_writer_sleeps_while_it_looks() -> None:
    """What it follows, the last commit of a row, stays; so nothing is taken back."""
    store = MemoryStore()
    lease = claimed(store, 10)
    reads = count()

    def asleep(_number: int, operation: str, key: str) -> None:
        if (operation, key) == ("read", log.slot(BASE, 11)) and next(reads) == 1:
            store.hook = None
            commit(lease, *range(11, 11 + 2 * LIMIT))

    store.hook = asleep
    change = partial(jobs.prioritized, priority=3)
    found = run(store, protocol.change("cats", change, known=lease.job, **tools()))
    assert next(reads) >= 2, "else nothing was tried here"
    assert (found.number, found.priority) == (12, 3)


def test_a_claim_in_a_hole_that_sleeps_again_leaves_no_old_copy() -> None:
    """It has seen the newest commit; the owner goes on, and ends."""
    store = MemoryStore()
    lease = claimed(store, 10)
    steps = protocol.claim(lease.job, {"host": "late"}, lease_seconds=60.0, **tools())

    def meanwhile() -> None:
        commit(lease, *range(11, 11 + LIMIT + 10))
        lists = count()

        def asleep(_number: int, operation: str, _key: str) -> None:
            if operation == "put" and next(lists) == 0:
                store.hook = None
                commit(lease, *range(300, 300 + 2 * LIMIT))
                lease.finish(final={"step": 600}, evaluate=False)

        store.hook = asleep

    with pytest.raises(ConflictError):
        late(store, steps, meanwhile)
    if store.hook is not None:  # it has left no copy at all
        store.hook = None
        commit(lease, *range(300, 300 + 2 * LIMIT))
        lease.finish(final={"step": 600}, evaluate=False)
    assert queue_of(store).job("cats").state is State.SUCCEEDED


@pytest.mark.parametrize("change", ["claim", "priority"])
@pytest.mark.parametrize("owned", [True, False])
def test_what_comes_late_brings_no_removed_job_back(change: str, owned: bool) -> None:
    """The removal was cut off between its last record and record 0."""
    store = MemoryStore()
    if owned:
        claimed(store, 3).release("notice")
    else:
        queue_of(store).submit("cats", {"seed": 1})
    old = queue_of(store).job("cats")
    steps = protocol.claim(old, {"host": "late"}, lease_seconds=60.0, **tools())
    if change == "priority":
        prioritized = partial(jobs.prioritized, priority=3)
        steps = protocol.change("cats", prioritized, known=old, **tools())

    def die(_number: int, operation: str, key: str) -> None:
        if (operation, key) == ("delete", log.slot(BASE, 0)):
            raise Killed

    def meanwhile() -> None:
        store.hook = die
        with suppress(Killed):
            queue_of(store).remove("cats")
        store.hook = None

    with pytest.raises((ConflictError, NotFoundError)):
        late(store, steps, meanwhile)
    assert queue_of(store).find("cats") is None
    assert list(leftovers(store, ["cats"], older_than=0.0)) == ["cats"]


def test_a_listing_that_lacks_the_newest_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    commit(claimed(store), *range(1, 2 * LIMIT))
    keys = store.list
    monkeypatch.setattr(store, "list", lambda prefix, **_: keys(prefix)[:-3])
    queue_of(store).require_whole("cats")
    assert "gone" not in checkup._records(store).text


def test_what_earlier_owners_left_goes_too() -> None:
    """Of each of them its first commit stays, and its last, which tells where it ended."""
    store = MemoryStore()
    commit(claimed(store), *range(1, 121))
    commit(taken_over(store), *range(121, 131))
    lease = taken_over(store, "c")
    commit(lease, *range(131, 130 + FEW))
    queue_of(store).prioritize("cats", 3)  # in the place of its tenth commit
    commit(lease, 130 + FEW)
    third = lease.job.number - FEW - 1
    assert records(store)[:9] == [0, 1, 2, 121, 122, 123, 132, third, third + 1]


def test_nothing_of_a_job_submitted_anew_is_deleted() -> None:
    """By an owner that slept while its job was removed, from the hand or by `remove`."""
    store = MemoryStore()
    lease = claimed(store, LIMIT)
    for key in store.list("jobs/"):
        store.delete(key)
    other = claimed(store, KEPT)
    before = records(store)
    run(store, lease._holder._thinning.committed(LIMIT + 2))
    with pytest.raises(LeaseLostError, match="removed"):
        commit(lease, 900)
    assert records(store) == before
    commit(other, 900)


def test_nothing_is_deleted_where_the_copy_is_old_or_deleting_fails() -> None:
    store = MemoryStore()
    lease = claimed(store)

    def refuse(_number: int, operation: str, key: str) -> None:
        if (operation, key) == ("put", log.hint(BASE)):
            raise StoreError("403")

    store.hook = refuse
    commit(lease, *range(1, 2 * LIMIT))
    assert len(records(store)) == 2 * LIMIT + 1

    def keep(_number: int, operation: str, _key: str) -> None:
        if operation == "delete":
            raise StoreError("403")

    store.hook = keep
    commit(lease, *range(2 * LIMIT, 3 * LIMIT))
    store.hook = None
    assert queue_of(store).job("cats").step == 3 * LIMIT - 1


def test_killed_at_every_call_of_a_deletion() -> None:
    """Whoever comes next sees the newest commit, and goes on."""
    whole = MemoryStore()
    commit(claimed(whole), *range(1, LIMIT))
    for call in count(1):
        store = whole.copy()
        lease = taken_over(store)
        commit(lease, *range(LIMIT, 2 * LIMIT))
        calls = count(1)

        def die(_number: int, _operation: str, _key: str, at: int = call) -> None:
            if next(calls) == at:  # noqa: B023
                raise Killed

        store.hook = die
        died = True
        with suppress(Killed):
            commit(lease, 2 * LIMIT)
            commit(lease, 2 * LIMIT + 1)
            died = False
        store.hook = None
        if not died:
            assert len(records(store)) <= LIMIT + 10
            break
        next_one = taken_over(store, "c")
        assert next_one.job.step >= 2 * LIMIT - 1
        commit(next_one, 999)
        assert queue_of(store).job("cats").step == 999
        assert run(store, listed(BASE))[1] is None
    assert call > 60


def test_lost_records_are_told_from_deleted_ones() -> None:
    """`submit` of the same job, and `doctor`; the report shows each attempt as it was."""
    store = MemoryStore()
    commit(claimed(store), *range(1, 2 * LIMIT))
    lease = taken_over(store)
    commit(lease, *range(2 * LIMIT, 4 * LIMIT))
    queue = queue_of(store)
    queue.require_whole("cats")
    assert "gone" not in checkup._records(store).text
    first = store.read(log.slot(BASE, 1)) or b""
    store.delete(log.slot(BASE, 1))
    with pytest.raises(DamagedRecordError, match="the first of them 1"):
        queue.require_whole("cats")
    assert "cats lacks record 1" in checkup._records(store).text
    store.put(log.slot(BASE, 1), first)
    for key in store.list(f"{BASE}/log/")[:30]:
        store.delete(key)
    with pytest.raises(DamagedRecordError, match="the first of them 1"):
        queue.require_whole("cats")


def test_the_report_tells_what_happened() -> None:
    """An attempt that was thinned out has its row; a claim in a hole, which never was, has none."""
    store = MemoryStore()
    lease = claimed(store, 10)
    old = lease.job
    commit(lease, *range(11, 2 * LIMIT))
    wrong = jobs.claimed(old, seen=old, owner={"host": "dead"}, lease_seconds=60.0)
    record = {**jobs.to_json(wrong), "number": 12, "nonce": "x", "previous": old.nonce}
    store.create(log.slot(BASE, 12), log.encode(record))
    second = taken_over(store)
    commit(second, 2 * LIMIT)
    (run_,) = collect(queue_of(store), [], now=utc_now()).runs
    assert [one.host for one in run_.attempts] == ["a", "b"]
    assert run_.problems == []
