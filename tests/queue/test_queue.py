"""What a user of the queue may rely on, from submission to the evaluation."""

import json
from pathlib import Path

import pytest

from runner.commit import Commit
from runner.errors import (
    ConflictError,
    DamagedRecordError,
    LeaseLostError,
    NotFoundError,
    StoreError,
)
from runner.queue.job import Stage, State
from runner.queue.protocol import Availability
from runner.queue.queue import Queue
from runner.store import log
from runner.store.base import Store
from runner.store.filesystem import FileStore
from tests.store.memory import MemoryStore

ME = {"host": "here", "pid": 1}
YOU = {"host": "there", "pid": 2}
EXPIRED = Availability(claimable=True, why="no sign of life")
SPEC = {"seed": 1, "model": {"name": "mlp", "arguments": {"width": 8}}}


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "store")


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store)


def reference(step: int) -> dict[str, object]:
    return {"step": step, "epoch": 0, "manifest": f"jobs/cats/checkpoints/{step}.json"}


def test_a_whole_life(queue: Queue) -> None:
    """Submit, train, commit, finish, evaluate: each is one record, and every step shows."""
    queue.submit("cats", SPEC)
    lease = queue.claim(queue.job("cats"), ME)
    lease.renew(step=3, epoch=0, metrics={"loss": 1.5}, unsaved_seconds=2.0)
    lease.commit(Commit(step=5, epoch=0, checkpoints=[reference(5)], notes=["threads 2 -> 4"]))
    trained = lease.finish(final=reference(5))
    assert (trained.state, trained.stage) == (State.QUEUED, Stage.EVALUATE)
    second = queue.claim(queue.job("cats"), YOU)
    second.finish(evaluation={"top_1": 0.5})
    job = queue.job("cats")
    assert (job.state, job.token, job.attempts, job.number) == (State.SUCCEEDED, 2, 2, 5)
    assert job.evaluation == {"top_1": 0.5}
    assert job.final == reference(5)
    assert job.notes == ("threads 2 -> 4",)
    assert queue.spec("cats") == SPEC
    assert queue.jobs() == [job]


def test_submitting_the_same_again_changes_nothing(queue: Queue) -> None:
    first = queue.submit("cats", SPEC)
    lease = queue.claim(first, ME)
    assert queue.submit("cats", dict(reversed(SPEC.items()))) == lease.job


def test_another_spec_under_the_same_name_is_shown_field_by_field(queue: Queue) -> None:
    queue.submit("cats", SPEC)
    words = r'model.arguments.width is 8, not 9\. .* another "name" .* that of its entry'
    with pytest.raises(ConflictError, match=words):
        queue.submit("cats", {"seed": 1, "model": {"name": "mlp", "arguments": {"width": 9}}})


def test_an_unknown_job_names_the_nearest(queue: Queue) -> None:
    queue.submit("cats", SPEC)
    with pytest.raises(NotFoundError, match="Did you mean cats"):
        queue.job("cat")
    with pytest.raises(NotFoundError, match=r"no job '\.\./up'"):
        queue.job("../up")


def test_of_two_claims_one_wins(queue: Queue) -> None:
    job = queue.submit("cats", SPEC)
    queue.claim(job, ME)
    with pytest.raises(ConflictError):
        queue.claim(job, YOU)


def test_a_second_claim_after_the_lease_expired_fences_the_first_worker() -> None:
    """A worker that wakes up after its lease expired can't commit, and learns it at once."""
    time = [0.0]
    store = MemoryStore(clock=lambda: time[0])
    queue = Queue(store, lease_seconds=60)
    first = queue.claim(queue.submit("cats", SPEC), ME)
    first.renew(step=1)
    assert not queue.availability(first.job).claimable
    time[0] += 61
    assert queue.availability(first.job).seen_seconds == 61
    second = queue.claim(queue.job("cats"), YOU)
    assert (second.token, second.job.preemptions) == (2, 1)
    with pytest.raises(LeaseLostError, match="running on there"):
        first.commit(Commit(step=9, epoch=0, checkpoints=[reference(9)]))
    with pytest.raises(LeaseLostError):
        first.renew(step=10)
    with pytest.raises(LeaseLostError):
        first.finish(final=reference(9))
    after = queue.job("cats")
    assert (after.kind, after.token, after.checkpoints) == ("claim", second.token, ()), (
        "a record of the fenced worker landed, whatever it was told"
    )
    assert second.commit(Commit(step=2, epoch=0, checkpoints=[reference(2)])).step == 2


def test_cancel_reaches_the_owner_at_its_next_renewal(queue: Queue) -> None:
    lease = queue.claim(queue.submit("cats", SPEC), ME)
    assert queue.cancel("cats").state is State.CANCELLED
    with pytest.raises(LeaseLostError, match="cancelled"):
        lease.renew(step=1)
    assert queue.cancel("cats").state is State.CANCELLED


def test_a_release_spends_no_retry_and_a_failure_does(queue: Queue) -> None:
    job = queue.submit("cats", SPEC)
    job = queue.claim(job, ME).release("notice of shutdown")
    job = queue.claim(job, ME).fail("loss is NaN", retries=1)
    assert (job.state, job.preemptions, job.failures) == (State.QUEUED, 1, 1)
    job = queue.claim(job, ME).fail("loss is NaN", retries=1)
    assert (job.state, job.reason) == (State.FAILED, "loss is NaN")
    job = queue.retry("cats")
    assert (job.state, job.failures, job.attempts) == (State.QUEUED, 0, 3)


def test_a_failed_evaluation_keeps_the_training(queue: Queue) -> None:
    job = queue.claim(queue.submit("cats", SPEC), ME).finish(final=reference(7))
    job = queue.claim(job, ME).fail("out of memory", retries=0)
    assert (job.state, job.stage, job.final) == (State.FAILED, Stage.EVALUATE, reference(7))
    assert queue.retry("cats").stage is Stage.EVALUATE


def test_a_spec_that_is_not_what_was_submitted_is_refused() -> None:
    """Also in a store of the first versions, whose records have no hash of their own."""
    store = MemoryStore()
    queue = Queue(store)
    queue.submit("cats", SPEC)
    key = "jobs/cats/log/000000000000.json"
    record = log.decode(store.read(key) or b"", key)
    record["spec"]["seed"] = 3
    store.put(key, json.dumps(record).encode())
    with pytest.raises(StoreError, match=f"the spec in {key} is not the one that was submitted"):
        queue.spec("cats")


@pytest.mark.parametrize("seen_by", ["copy", "listing"])
def test_a_job_whose_newest_record_is_gone_is_claimed_where_it_stood(seen_by: str) -> None:
    """The copy still says that it runs, with a worker that is dead: nobody could claim it."""
    store = MemoryStore()
    queue = Queue(store)
    lease = queue.claim(queue.submit("cats", SPEC), ME)
    lease.commit(Commit(step=5, epoch=0, checkpoints=[reference(5)]))
    store.delete("jobs/cats/log/000000000002.json")
    if seen_by == "listing":
        store.delete("jobs/cats/head.json")
    claimed = queue.claim(queue.job("cats"), YOU, judged=EXPIRED)
    assert (claimed.job.token, claimed.job.step) == (2, 5 if seen_by == "copy" else 0)
    claimed.commit(Commit(step=6, epoch=0, checkpoints=[reference(6)]))
    assert queue.job("cats").step == 6


def flip(store: MemoryStore, key: str, place: bytes = b'"state"') -> None:
    data = bytearray(store.read(key) or b"")
    data[data.index(place) + 1] ^= 1
    store.put(key, bytes(data))


def test_a_job_whose_newest_record_is_damaged_goes_on_from_the_one_before_it() -> None:
    """Its copy is older. The claim takes a token that the damaged record can't have taken."""
    store = MemoryStore()
    queue = Queue(store)
    lease = queue.claim(queue.submit("cats", SPEC), ME)
    lease.commit(Commit(step=5, epoch=0, checkpoints=[reference(5)]))
    lease.release("going home")
    before = store.read("jobs/cats/head.json") or b""
    queue.claim(queue.job("cats"), ME)
    flip(store, "jobs/cats/log/000000000004.json")
    store.put("jobs/cats/head.json", before)
    for job in (queue.job("cats"), *queue.jobs()):
        assert (job.state, job.step, job.number) == (State.QUEUED, 5, 4)
        assert job.reason == "record 4 of its log is damaged: the one before it counts"
    claimed = queue.claim(job, YOU).job
    assert (claimed.number, claimed.token, claimed.step, claimed.damaged) == (5, 3, 5, 0)
    assert claimed.notes == (job.reason,)
    assert queue.claim(queue.job("cats"), ME, judged=EXPIRED).token == 4


def test_an_owner_goes_on_over_a_damaged_record_of_a_user() -> None:
    store = MemoryStore()
    queue = Queue(store)
    lease = queue.claim(queue.submit("cats", SPEC), ME)
    before = store.read("jobs/cats/head.json") or b""
    queue.prioritize("cats", 3)
    flip(store, "jobs/cats/log/000000000002.json")
    store.put("jobs/cats/head.json", before)
    for _ in range(20):
        lease.renew()
    job = lease.commit(Commit(step=1, epoch=0, checkpoints=[reference(1)]))
    assert (job.number, job.token, job.priority) == (3, 1, 0)
    assert lease.finish(final=reference(1)).state is State.QUEUED


@pytest.mark.parametrize("field", ["token", "checkpoints", "best", "final", "state", "attempts"])
def test_a_record_without_a_field_is_no_record(field: str) -> None:
    """Of the first versions, whose records have no hash: "no checkpoints" is a fresh start."""
    store = MemoryStore()
    Queue(store).submit("cats", SPEC)
    record = log.decode(store.read("jobs/cats/head.json") or b"", "head")
    del record[field]
    for key in ("jobs/cats/head.json", "jobs/cats/log/000000000000.json"):
        store.put(key, json.dumps(record).encode())
    with pytest.raises(StoreError, match=f"it has no {field}"):
        Queue(store).job("cats")


@pytest.mark.parametrize("claims", [0, 1])
def test_a_job_whose_record_0_is_damaged_is_passed_over_with_what_to_do(claims: int) -> None:
    """Its copy, while there is one, would be overwritten by the next record."""
    store = MemoryStore()
    queue = Queue(store)
    job = queue.submit("cats", SPEC)
    for _ in range(claims):
        job = queue.claim(job, ME).release("going home")
    flip(store, "jobs/cats/log/000000000000.json")
    for error in (queue.without_spec([queue.job("cats")])["cats"], spec_error(queue)):
        assert "log/000000000000.json" in str(error)
        assert "Bring that object back from a copy" in str(error)


def spec_error(queue: Queue) -> StoreError:
    with pytest.raises(DamagedRecordError) as caught:
        queue.spec("cats")
    return caught.value


def test_a_spec_is_the_one_that_the_newest_record_knows() -> None:
    """Someone made record 0 anew under a job that has been trained."""
    store = MemoryStore()
    queue = Queue(store)
    job = queue.claim(queue.submit("cats", SPEC), ME).job
    store.delete("jobs/cats/log/000000000000.json")
    queue.submit("cats", {**SPEC, "seed": 99})
    with pytest.raises(DamagedRecordError, match="not the one that was submitted"):
        queue.spec("cats", job.spec_digest)
