"""A job is removed and its name given again while someone sleeps: the new job is none the worse."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import sleep

import pytest

from runner.cli.main import main
from runner.commit import Commit
from runner.errors import ConflictError, LeaseLostError, StoreRefusedError
from runner.queue import job as jobs
from runner.queue import protocol
from runner.queue.job import Job, State
from runner.queue.lease import Lease
from runner.queue.queue import Queue, utc_now
from runner.store import checkup, log
from runner.store.filesystem import FileStore, open_store
from runner.store.steps import Create, Read, Steps, perform, run
from runner.store.thinning import listed
from tests.store.memory import MemoryStore
from tests.store.test_thinning import BASE, claimed, commit, queue_of, records

FREE = protocol.Availability(claimable=True, why="its worker is gone")


class DeadError(BaseException):
    """The writer was killed."""


def committed(step: int) -> Callable[[Job], Job]:
    return partial(jobs.committed, commit=Commit(step=step, epoch=0))


def given_again(store: MemoryStore, commits: int | None) -> Lease | None:
    """Remove the job, submit another under its name, and train that; None: only submit it."""
    with suppress(ConflictError):
        queue_of(store).cancel("cats")
    clock = store._clock
    assert clock is not None
    store._clock = lambda: clock() + 1000  # its lease has expired
    queue_of(store).remove("cats")
    sleep(0.001)  # the times of two submits differ
    job = queue_of(store).submit("cats", {"seed": 2})
    if commits is None:
        return None
    lease = queue_of(store).claim(job, {"host": "new"}, judged=FREE)
    commit(lease, *range(1, commits + 1))
    return lease


def run_late(
    store: MemoryStore,
    steps: Steps[Job],
    meanwhile: Callable[[], object],
    *,
    dies: bool = False,
) -> Job:
    """Run a protocol whose writer sleeps before its create, and may die after it."""
    reply: object = None
    slept = False
    while True:
        try:
            operation = steps.send(reply)
        except StopIteration as end:
            result: Job = end.value
            return result
        if slept and dies:
            raise DeadError
        if not slept and isinstance(operation, Create):
            slept = True
            meanwhile()
        reply = perform(store, operation, sleep=lambda _: None)


def late_change(store: MemoryStore, kind: str) -> Steps[Job]:
    seen = queue_of(store).job("cats")
    change: dict[str, Callable[[Job], Job]] = {
        "priority": partial(jobs.prioritized, priority=3),
        "claim": partial(jobs.claimed, seen=seen, owner={"host": "dead"}, lease_seconds=60.0),
    }
    return protocol.change("cats", change[kind], nonce=lambda: "late", now=utc_now, known=seen)


def is_sound(store: MemoryStore, step: int) -> None:
    """The new job is what its owner made of it, to all who look."""
    for queue in (queue_of(store), queue_of(store)):
        job = queue.job("cats")
        assert (job.step, run(store, protocol.spec("cats", job.spec_digest))) == (step, {"seed": 2})
    assert [job.step for job in queue_of(store).jobs()] == [step]
    assert run(store, listed(BASE))[1] is None
    assert (run(store, log.head(BASE, hinted=False)) or {}).get("step", 0) == step


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("commits", [None, 0, 1, 3, 8, 200])
def test_an_owner_that_sleeps_before_its_record_takes_it_back(
    commits: int | None, ends: bool
) -> None:
    store = MemoryStore()
    old = claimed(store, 5)
    new: list[Lease | None] = []
    if ends:
        steps = old._holder.end(partial(jobs.released, reason="notice"))
    else:
        steps = old._holder.commit(committed(6))
    with pytest.raises(LeaseLostError):
        run_late(store, steps, lambda: new.append(given_again(store, commits)))
    is_sound(store, commits or 0)
    with pytest.raises(LeaseLostError):
        old.renew(step=7)
    if new[0] is not None:
        commit(new[0], *range((commits or 0) + 1, (commits or 0) + 12))
        is_sound(store, (commits or 0) + 11)
        assert queue_of(store).job("cats").owner == {"host": "new"}


def only_looks(store: MemoryStore, steps: Steps[Job]) -> None:
    reply: object = None
    while True:
        operation = steps.send(reply)
        assert isinstance(operation, Read)
        reply = perform(store, operation, sleep=lambda _: None)


@pytest.mark.parametrize("commits", [None, 3, 30])
def test_an_owner_whose_job_was_removed_while_it_trained_writes_nothing(
    commits: int | None,
) -> None:
    """It looks for its claim before its record, too: it may die right after that."""
    store = MemoryStore()
    old = claimed(store, 5)
    given_again(store, commits)
    steps = old._holder.commit(committed(6))
    with pytest.raises(LeaseLostError, match="removed"):
        only_looks(store, steps)
    is_sound(store, commits or 0)


def test_an_owner_whose_job_is_gone_leaves_nothing() -> None:
    store = MemoryStore()
    old = claimed(store, 5)

    def removed() -> None:
        given_again(store, None)
        queue_of(store).remove("cats")

    steps = old._holder.commit(committed(6))
    with pytest.raises(LeaseLostError, match="removed"):
        run_late(store, steps, removed)
    assert store.list("jobs/") == []


@pytest.mark.parametrize("commits", [None, 1, 3, 30])
def test_an_owner_that_dies_after_a_late_record_hides_nothing(commits: int | None) -> None:
    """Its record is passed over, wherever it lies, and named by doctor; the job goes on."""
    store = MemoryStore()
    old = claimed(store, 5)  # its next record has number 7
    new: list[Lease | None] = []
    steps = old._holder.commit(committed(6))
    with pytest.raises(DeadError):
        run_late(store, steps, lambda: new.append(given_again(store, commits)), dies=True)
    assert 7 in records(store)
    is_sound(store, commits or 0)
    lease = new[0] or queue_of(store).claim(queue_of(store).job("cats"), {"host": "n"})
    assert queue_of(store).prioritize("cats", 2).priority == 2
    is_sound(store, commits or 0)
    late = [f"{BASE}/log/000000000007.json"] if commits != 30 else []  # else it is the new job's
    assert checkup.remove_late(store, "cats") == late
    commit(lease, *range(40, 50))
    is_sound(store, 49)


@pytest.mark.parametrize("commits", [None, 3])
@pytest.mark.parametrize("kind", ["claim", "priority"])
def test_a_late_record_in_the_place_of_the_next_is_named(kind: str, commits: int | None) -> None:
    """Nobody builds upon it; what can't be written because of it says what to do."""
    store = MemoryStore()
    claimed(store, 2).release(reason="n")
    steps = late_change(store, kind)  # of the number 5
    new: list[Lease | None] = []
    with pytest.raises(DeadError):
        run_late(store, steps, lambda: new.append(given_again(store, commits)), dies=True)
    is_sound(store, commits or 0)
    lease = new[0]
    if lease is None:
        lease = queue_of(store).claim(queue_of(store).job("cats"), {"host": "n"}, judged=FREE)
        commit(lease, 1, 2, 3)
    with pytest.raises(StoreRefusedError, match=r"earlier job of that name.*doctor --repair"):
        run(store, lease._holder.commit(committed(4)), sleep=lambda _: None)
    is_sound(store, 3)
    lease.renew(step=4)
    assert len(checkup.remove_late(store, "cats")) == 1
    commit(lease, 4)
    is_sound(store, 4)


@pytest.mark.parametrize("kind", ["claim", "priority"])
def test_who_meets_a_late_record_waits_until_it_is_taken_back(kind: str) -> None:
    store = MemoryStore()
    claimed(store, 2).release(reason="n")
    steps, told = late_change(store, kind), list[str]()
    operation = next(steps)
    while not isinstance(operation, Create):
        operation = steps.send(perform(store, operation, sleep=lambda _: None))
    lease = given_again(store, 3)
    assert lease is not None
    reply = perform(store, operation, sleep=lambda _: None)

    def late_one_wakes(_: float) -> None:
        if not told:
            with pytest.raises(ConflictError, match=r"submitted anew|not as it was") as refused:
                finish(store, steps, reply)
            told.append(str(refused.value))

    run(store, lease._holder.commit(committed(4)), sleep=late_one_wakes)
    assert told
    is_sound(store, 4)


def finish(store: MemoryStore, steps: Steps[Job], reply: object) -> None:
    while True:
        reply = perform(store, steps.send(reply), sleep=lambda _: None)


def test_doctor_removes_what_was_written_late(
    folder: FileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = Queue(folder, lease_seconds=60.0)
    earlier = queue.submit("cats", {"seed": 1})
    queue.claim(earlier, {"host": "a"})
    late = folder.read(f"{BASE}/log/000000000001.json") or b""
    folder.delete(f"{BASE}/log/000000000001.json")
    folder.delete(f"{BASE}/log/000000000000.json")
    folder.delete(f"{BASE}/head.json")
    sleep(0.001)
    queue.submit("cats", {"seed": 2})
    folder.create(f"{BASE}/log/000000000001.json", late)
    assert Queue(folder).job("cats").state is State.QUEUED
    assert main(["doctor", "--store", folder.url]) == 0
    assert "of earlier jobs of the same name" in " ".join(capsys.readouterr().out.split())
    assert main(["doctor", "--repair", "--store", folder.url]) == 0
    assert "written late" in " ".join(capsys.readouterr().out.split())
    queue.claim(Queue(folder).job("cats"), {"host": "b"})


@pytest.mark.parametrize("copy", ["newest", "first", None])
def test_a_first_record_that_was_put_back_makes_no_other_late(
    folder: FileStore, copy: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Earlier versions gave it the time of that, and another nonce."""
    queue = Queue(folder, lease_seconds=60.0)
    lease = queue.claim(queue.submit("cats", {"seed": 1}), {"host": "a"})
    lease.commit(Commit(step=1, epoch=0))
    lease.release(reason="n")
    head = folder.read(log.hint(BASE)) or b""
    folder.delete(f"{BASE}/log/000000000000.json")
    sleep(0.001)
    run(folder, protocol.submit("cats", {"seed": 1}, nonce=lambda: "again", now=utc_now))
    if copy == "newest":
        folder.put(log.hint(BASE), head)
    elif copy is None:
        folder.delete(log.hint(BASE))
    assert main(["doctor", "--repair", "--store", folder.url]) == 0
    assert "wrote late" not in " ".join(capsys.readouterr().out.split())
    assert Queue(folder).job("cats").step == 1
    assert len(folder.list(f"{BASE}/log/")) == 4
    claimed_again = Queue(folder).claim(Queue(folder).job("cats"), {"host": "b"})
    assert (claimed_again.job.step, claimed_again.token) == (1, 2)


@pytest.fixture
def folder(tmp_path: object) -> FileStore:
    store = open_store(f"{tmp_path}/store")
    assert isinstance(store, FileStore)
    return store


@pytest.mark.parametrize("commits", [None, 0, 3, 30])
def test_a_copy_of_the_earlier_job_hides_nothing_from_who_writes(commits: int | None) -> None:
    """A `put` that was sent again comes so late that there is another job of that name."""
    store = MemoryStore()
    claimed(store, 5)
    old = store.read(log.hint(BASE)) or b""
    lease = given_again(store, commits)
    store.put(log.hint(BASE), old)
    with suppress(ConflictError):  # which puts the copy right
        queue_of(store).prioritize("cats", 1)
    is_sound(store, commits or 0)
    assert queue_of(store).prioritize("cats", 2).priority == 2
    is_sound(store, commits or 0)
    store.put(log.hint(BASE), old)
    if lease is not None:
        commit(lease, *range(31, 34))
        is_sound(store, 33)


def test_a_copy_tells_of_which_job_a_single_record_is(folder: FileStore) -> None:
    queue = Queue(folder, lease_seconds=60.0)
    queue.submit("cats", {"seed": 1})
    queue.hold("cats")
    head = folder.read(log.hint(BASE)) or b""
    folder.delete(f"{BASE}/log/000000000000.json")
    sleep(0.001)
    run(folder, protocol.submit("cats", {"seed": 1}, nonce=lambda: "again", now=utc_now))
    folder.put(log.hint(BASE), head)
    assert checkup.remove_late(folder, "cats") == []
    assert queue.unhold("cats").number == 2


@pytest.mark.parametrize("number", [0, 1])
def test_a_flipped_bit_of_a_record_without_a_hash_makes_none_late(
    folder: FileStore, number: int
) -> None:
    """Such are those of the first versions."""
    queue = Queue(folder, lease_seconds=60.0)
    queue.claim(queue.submit("cats", {"seed": 1}), {"host": "a"})
    key = log.slot(BASE, number)
    record = log.decode(folder.read(key) or b"", key)
    record["spec_digest"] = record["spec_digest"][::-1]
    folder.put(key, json.dumps(record).encode())
    assert checkup.remove_late(folder, "cats") == []
    assert len(folder.list(f"{BASE}/log/")) == 2


def test_readers_pass_over_no_record_without_a_hash(folder: FileStore) -> None:
    queue = Queue(folder, lease_seconds=60.0)
    queue.claim(queue.submit("cats", {"seed": 1}), {"host": "a"})
    key = log.slot(BASE, 1)
    record = log.decode(folder.read(key) or b"", key)
    folder.put(key, json.dumps({**record, "spec_digest": "x", "previous": "y"}).encode())
    folder.delete(log.hint(BASE))
    assert (run(folder, log.head(BASE)) or {})["number"] == 1
