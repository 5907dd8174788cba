"""One worker writes a job's records; whoever lost the job learns it and changes nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runner.commit import Commit
from runner.errors import ConflictError, LeaseLostError, StoreError
from runner.queue.job import State
from runner.queue.lease import Lease
from runner.queue.queue import Queue
from runner.store.filesystem import FileStore
from tests.store.memory import Fault, MemoryStore

ME = {"host": "here", "pid": 1}
YOU = {"host": "there", "pid": 2}


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def claimed(queue: Queue, name: str = "cats") -> Lease:
    return queue.claim(queue.submit(name, {"seed": 1}), ME)


def test_a_lost_lease_stays_lost() -> None:
    queue = Queue(MemoryStore())
    lease = claimed(queue)
    queue.cancel("cats")
    queue.retry("cats")
    for _ in range(2):
        with pytest.raises(LeaseLostError):
            lease.renew()
        with pytest.raises(LeaseLostError):
            lease.commit(Commit(step=1, epoch=0, checkpoints=[]))
        with pytest.raises(LeaseLostError):
            lease.fail("x")


def test_a_lease_that_ended_writes_nothing_more() -> None:
    queue = Queue(MemoryStore())
    lease = claimed(queue)
    job = lease.release("going home")
    with pytest.raises(LeaseLostError, match="has ended"):
        lease.commit(Commit(step=1, epoch=0, checkpoints=[]))
    assert queue.job("cats") == job


def test_a_heartbeat_says_where_the_training_is() -> None:
    queue = Queue(MemoryStore())
    lease = claimed(queue)
    assert queue.heartbeat(lease.job) is None
    lease.renew(
        step=7,
        epoch=2,
        metrics={"loss": 0.5, "top_1": float("nan")},
        unsaved_seconds=3.0,
        details={"rate": 12},
    )
    beat = queue.heartbeat(lease.job)
    assert beat is not None
    assert (beat.step, beat.epoch, beat.unsaved_seconds, beat.sequence) == (7, 2, 3.0, 1)
    assert beat.metrics == {"loss": 0.5, "top_1": None}
    assert beat.details == {"rate": 12}
    assert queue.heartbeats([lease.job])["cats"] == beat


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"metrics": 3}', b'{"metrics": {"a": []}}'])
def test_a_damaged_heartbeat_is_none(data: bytes) -> None:
    store = MemoryStore()
    lease = claimed(Queue(store))
    store.put("jobs/cats/lease/1.json", data)
    assert Queue(store).heartbeat(lease.job) is None
    assert Queue(store).heartbeats([lease.job]) == {}


# When may I claim?


def test_the_stores_clock_tells_at_once() -> None:
    """A process that just started sees that a lease expired an hour ago."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    lease = claimed(Queue(store, lease_seconds=60))
    lease.renew()
    clock.seconds += 59
    fresh = Queue(store, clock=lambda: 0.0)
    assert fresh.availability(lease.job).expires_in == 1
    clock.seconds += 3600
    verdict = fresh.availability(lease.job)
    assert verdict.claimable
    assert "no sign of life for 3659 s" in verdict.why


def test_the_claim_is_the_first_sign_of_life() -> None:
    clock = Clock()
    queue = Queue(MemoryStore(clock=clock), lease_seconds=60)
    lease = claimed(queue)
    assert not queue.availability(lease.job).claimable
    clock.seconds += 61
    assert queue.availability(lease.job).claimable


def test_without_store_times_the_own_clock_must_see_a_lease_pass() -> None:
    clock = Clock()
    queue = Queue(MemoryStore(clock=None), lease_seconds=60, clock=clock)
    lease = claimed(queue)
    assert queue.availability(lease.job).seen_seconds == 0
    clock.seconds += 50
    lease.renew()
    assert queue.availability(lease.job).seen_seconds == 0
    clock.seconds += 50
    assert not queue.availability(lease.job).claimable
    clock.seconds += 11
    assert queue.availability(lease.job).claimable


def test_the_owners_lease_counts_and_not_the_watchers() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    lease = claimed(Queue(store, lease_seconds=600))
    clock.seconds += 100
    assert not Queue(store, lease_seconds=1).availability(lease.job).claimable


def test_a_job_with_a_live_owner_cannot_be_claimed() -> None:
    queue = Queue(MemoryStore())
    lease = claimed(queue)
    with pytest.raises(ConflictError, match="can't be claimed: it is running on here"):
        queue.claim(lease.job, YOU)


def test_a_takeover_is_refused_if_the_owner_showed_life_after_it_was_judged() -> None:
    """The owner commits between the look and the claim."""
    clock = Clock()
    queue = Queue(MemoryStore(clock=clock), lease_seconds=60)
    lease = claimed(queue)
    clock.seconds += 61
    seen = queue.job("cats")
    verdict = queue.availability(seen)
    assert verdict.claimable
    lease.commit(Commit(step=1, epoch=0, checkpoints=[]))
    with pytest.raises(ConflictError):
        queue.claim(seen, YOU, judged=verdict)
    lease.commit(Commit(step=2, epoch=0, checkpoints=[]))


# When the bucket is away


def test_while_the_bucket_is_away_the_lease_is_not_lost() -> None:
    store = MemoryStore()
    lease = claimed(Queue(store))
    store.hook = lambda _n, _operation, _key: Fault.NOT_DONE
    with pytest.raises(StoreError):
        lease.renew(step=1)
    with pytest.raises(StoreError):
        lease.commit(Commit(step=1, epoch=0, checkpoints=[]))
    store.hook = None
    lease.renew(step=2)
    assert lease.commit(Commit(step=2, epoch=0, checkpoints=[])).step == 2


def test_a_renewal_that_fails_still_sees_a_cancel() -> None:
    store = MemoryStore()
    queue = Queue(store)
    lease = claimed(queue)
    queue.cancel("cats")
    store.hook = lambda _n, operation, _key: Fault.NOT_DONE if operation == "put" else None
    with pytest.raises(LeaseLostError):
        lease.renew()


def test_a_finish_that_landed_without_a_reply_is_recognised() -> None:
    """The record landed, every later request failed; asked again, it is done already."""
    store = MemoryStore()
    queue = Queue(store)
    lease = claimed(queue)
    landed: list[int] = []

    def hook(_n: int, operation: str, _key: str) -> Fault | None:
        if landed:
            return Fault.NOT_DONE
        if operation == "create":
            landed.append(1)
            return Fault.REPLY_LOST
        return None

    store.hook = hook
    with pytest.raises(StoreError):
        lease.finish(final={"step": 1})
    store.hook = None
    job = lease.finish(final={"step": 1})
    assert job == queue.job("cats")
    assert (job.state, job.number, job.final) == (State.QUEUED, 2, {"step": 1})


def test_renewals_do_not_wait_for_a_slow_commit() -> None:
    """A commit that waits for a bucket must not let the lease expire."""
    store = MemoryStore()
    lease = claimed(Queue(store))
    waiting, go_on = threading.Event(), threading.Event()

    def hook(_n: int, operation: str, key: str) -> None:
        if operation == "create":
            waiting.set()
            go_on.wait(10)

    store.hook = hook
    commit = threading.Thread(
        target=lambda: lease.commit(Commit(step=1, epoch=0, checkpoints=[])), daemon=True
    )
    commit.start()
    assert waiting.wait(10)
    lease.renew(step=1)
    assert commit.is_alive()
    go_on.set()
    commit.join(10)
    assert lease.job.step == 1


def test_threads_may_renew_and_commit_at_once() -> None:
    queue = Queue(MemoryStore())
    lease = claimed(queue)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                lease.renew(step=step)
                if number == 0:
                    lease.commit(Commit(step=step, epoch=0, checkpoints=[]))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert lease.job == queue.job("cats")
    assert lease.job.number == 21


# Real processes

WORKER = """
import sys, time
from runner.commit import Commit
from runner.errors import LeaseLostError
from runner.queue.owner import this_process
from runner.queue.queue import Queue
from runner.store.filesystem import FileStore
queue = Queue(FileStore(sys.argv[1]), lease_seconds=0.5)
lease = queue.claim(queue.job("cats"), this_process())
step = 0
try:
    while True:
        step += 1
        lease.renew(step=step)
        lease.commit(Commit(step=step, epoch=0, checkpoints=[]))
        print(step, flush=True)
        time.sleep(0.01)
except LeaseLostError:
    print("lost", flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> subprocess.Popen[str]:
    Queue(FileStore(tmp_path)).submit("cats", {"seed": 1})
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "5":
        assert process.poll() is None
    return process


def test_a_frozen_worker_that_thaws_changes_nothing(
    worker: subprocess.Popen[str], tmp_path: Path
) -> None:
    """SIGSTOP, takeover after the lease expired, SIGCONT: it says that it lost, and ends."""
    os.kill(worker.pid, signal.SIGSTOP)
    queue = Queue(FileStore(tmp_path), lease_seconds=0.5)
    assert queue.availability(queue.job("cats")).owner_alive is not False
    while not queue.availability(queue.job("cats")).claimable:
        time.sleep(0.05)
    lease = queue.claim(queue.job("cats"), YOU)
    taken = lease.commit(Commit(step=1000, epoch=0, checkpoints=[{"step": 1000}]))
    os.kill(worker.pid, signal.SIGCONT)
    output, _ = worker.communicate(timeout=30)
    assert output.strip().endswith("lost")
    assert queue.job("cats") == taken
    assert lease.commit(Commit(step=1001, epoch=0, checkpoints=[])).step == 1001


def test_a_killed_worker_is_followed_at_once_on_its_own_machine(
    worker: subprocess.Popen[str], tmp_path: Path
) -> None:
    queue = Queue(FileStore(tmp_path), lease_seconds=3600)
    assert not queue.availability(queue.job("cats")).claimable
    worker.kill()
    worker.wait()
    verdict = queue.availability(queue.job("cats"))
    assert (verdict.claimable, verdict.owner_alive) == (True, False)
    assert queue.claim(queue.job("cats"), ME).job.preemptions == 1
