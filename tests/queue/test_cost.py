"""What the queue asks of a bucket, counted on the wire, and what status costs with many jobs."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any

import numpy as np
import pytest

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Position
from runner.cli import status
from runner.commit import Commit
from runner.engine.identity import Identity
from runner.engine.requirements import Looking
from runner.errors import ConflictError, StoreError
from runner.queue import drain, presence, protocol
from runner.queue import job as transitions
from runner.queue.job import Job
from runner.queue.lease import Holder
from runner.queue.owner import this_process
from runner.queue.presence import Presence
from runner.queue.queue import NEWS, Queue, random_nonce, utc_now
from runner.queue.survey import Survey
from runner.queue.view import Onlooker
from runner.store import log
from runner.store.base import MAX_RECORD, Buffer
from runner.store.filesystem import FileStore
from runner.store.steps import Steps, perform
from tests.engine.counting import Counting as Training
from tests.engine.counting import Shop
from tests.store.memory import MemoryStore
from tests.store.servers import Server, serving
from tests.store.servers.proxy import Proxy

ME = {"host": "here", "pid": 1}


@pytest.fixture(scope="module", params=["s3", "gcs"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving(request.param) as running:
        yield running


def kinds(proxy: Proxy, work: Callable[[], object]) -> Counter[str]:
    """Do it, and count the requests: PUT and POST and listings cost ten times what a GET does."""
    before = len(proxy.seen)
    work()
    counts: Counter[str] = Counter()
    for request in proxy.seen[before:]:
        path = request.path
        listing = request.method == "GET" and (
            "list-type=2" in path or path.split("?")[0][-2:] == "/o"
        )
        kind = {"PUT": "write", "POST": "write", "DELETE": "delete"}.get(request.method, "read")
        counts["list" if listing else kind] += 1
    return counts


def test_requests_of_a_jobs_life(server: Server) -> None:
    """An hour has 120 commits and 360 renewals."""
    with Proxy(server.port) as proxy:
        queue = Queue(server.store(f"cost-{token_hex(4)}", port=proxy.port))
        queue.submit("warm-up", {"seed": 1})

        def count(work: Callable[[], object]) -> dict[str, int]:
            return dict(kinds(proxy, work))

        # submit: is the store probed? + the record, the hint
        assert count(lambda: queue.submit("cats", {"seed": 1})) == {"read": 1, "write": 2}
        # job: the hint, and that nothing follows it
        assert count(lambda: queue.job("cats")) == {"read": 2}
        job = queue.job("cats")
        lease = queue.claim(job, ME)
        # renew: the heartbeat, that the claim is there, and that nothing follows the last record
        assert count(lambda: lease.renew(step=1)) == {"write": 1, "read": 2}
        # commit: that the claim is there and nothing follows, the record, the hint
        commit = lambda: lease.commit(Commit(step=1, epoch=0, checkpoints=[]))  # noqa: E731
        assert count(commit) == {"read": 3, "write": 2}
        # a user's change of a job that had an owner: is it there, is that the newest, is its
        # record in its place; the record; whether that counts; the hint
        hold = count(lambda: queue.hold("cats"))
        assert hold == {"read": 7, "write": 2, "list": 1}
        queue.unhold("cats")
        lease.renew(step=1)
        # whether someone asks this worker, or all, to stop
        listening = drain.Drain(queue.store, "here:1")
        looks = count(lambda: listening.requested())
        assert looks.keys() == {"read"}
        assert looks["read"] <= (2 if server.kind == "s3" else 4)
        # an end: as a commit
        assert count(lambda: lease.finish(final={"step": 1})) == {"read": 3, "write": 2}


def test_requests_of_a_checkpoint(server: Server) -> None:
    """The pack, the manifest, and the commit; what is no longer kept is deleted, which is free."""
    with Proxy(server.port) as proxy:
        queue = Queue(server.store(f"cost-{token_hex(4)}", port=proxy.port))
        lease = queue.claim(queue.submit("cats", {"seed": 1}), ME)
        saver = Checkpointer(
            Ledger(queue.store, "jobs/cats", token=lease.token, commit=lease.commit)
        )

        def save(step: int) -> dict[str, int]:
            weights = np.full(1000, step, "float32")
            snapshot = Snapshot(
                tensors=[("model/0", weights)], python={}, position=Position(global_step=step)
            )
            counts = kinds(proxy, lambda: saver.save(snapshot, wait=True))
            return {name: number for name, number in counts.items() if name != "delete"}

        for step in range(1, 5):
            assert save(step) == {"write": 4, "read": 3}


def test_requests_of_status(server: Server) -> None:
    """Two reads a job, one more if it goes on, and a listing for each page of names.

    A page has 1,000 names on real buckets, and 50 here.
    """
    with Proxy(server.port) as proxy:
        store = server.store(f"status-{token_hex(4)}", port=proxy.port)
        queue = Queue(store)
        for number in range(60):
            queue.submit(f"job-{number}", {"seed": number})
        for number in range(20):
            queue.cancel(f"job-{number}")
        for number in range(20, 30):
            queue.claim(queue.job(f"job-{number}"), ME).renew(step=1)
        options = argparse.Namespace(job=[], state=None, match=None, worker=None)
        counts = kinds(proxy, lambda: status.look(Onlooker(queue), options))
        # the word of jobs brought forward; of each its newest record, of one that goes on its spec
        expected = 1 + 2 * 60 + 40
        # of a running job: the heartbeat for people, its content and its age; and once in five
        # minutes the store's clock: an object written, looked at, deleted. gcsfs looks for an
        # object and a folder at once, and at times both requests are sent
        assert 1 <= counts["read"] - expected - 3 * 10 <= 1 + 11
        assert counts["write"] == 1
        assert counts["list"] <= 4 + (10 if server.kind == "gcs" else 0)


def reads_of(store: MemoryStore, work: Callable[[], object]) -> Counter[str]:
    """Do it, and count what a bucket would be asked for; an age is a read, too."""
    asked: Counter[str] = Counter()
    names = {"age": "read", "size": "read", "folders": "list", "create": "write", "put": "write"}
    store.hook = lambda _number, operation, _key: asked.update([names.get(operation, operation)])
    work()
    store.hook = None
    return asked


ELSEWHERE = {"gpu_memory_gb": None, "labels": ["elsewhere"]}


@pytest.mark.parametrize("jobs", [1_000, pytest.param(10_000, marks=pytest.mark.chaos)])
def test_a_long_queue_costs_what_changed_not_what_is_there(
    jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six jobs of a long queue: two reads a job once, and some for each that is worked on."""
    shop = Shop(monkeypatch)
    for number in range(jobs):
        mine = number % 166 == 5 and number < 1_000
        shop.submit(f"job-{number:05d}", **({} if mine else {"requirements": ELSEWHERE}))
    stage = Training()
    asked = reads_of(shop.store, lambda: shop.work(stage))
    assert len(stage.ran) == 6
    assert asked["read"] <= 2 * jobs + 7 * 36
    # a training, an evaluation whose claim is behind an owner's records, and that nothing is left
    assert asked["list"] <= 3 * 6 + 2


def test_a_worker_that_waits_asks_for_the_jobs_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the table of runner/store/README.md has it: 1,000 jobs, 4 of them running elsewhere."""
    shop = Shop(monkeypatch)
    for number in range(996):
        shop.submit(f"job-{number:04d}", requirements=ELSEWHERE)
    for number in range(4):
        shop.queue.claim(shop.submit(f"running-{number}"), ME).renew()
    asked: list[str] = []
    looks: list[Counter[str]] = []
    shop.store.hook = lambda _number, operation, _key: asked.append(operation)

    def sleep(_seconds: float) -> None:
        if asked:
            looks.append(Counter(asked))
            asked.clear()
        if len(looks) == 4:
            shop.stop.set("enough")

    shop.work(sleep=sleep, until_empty=False)
    # the word and a read for each that runs, its sign of life with its age, two for a drain
    assert looks[1:] == [{"read": 1 + 4 + 4 + 2, "age": 4, "folders": 1}] * 3
    assert looks[0]["read"] <= looks[1]["read"] + 2 * 1_000


def test_others_take_most_of_a_queue_and_few_are_asked_for_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While this worker trained: a group is looked at behind each job that is another's now."""
    shop = Shop(monkeypatch)
    for number in range(202):
        shop.submit(f"job-{number:04d}")

    def others(job: Job, step: int) -> None:
        if (job.id, step) == ("job-0000", 1):
            for number in range(1, 201):
                lease = shop.queue.claim(shop.queue.job(f"job-{number:04d}"), ME)
                lease.finish(final={"step": 1}, evaluate=False)

    stage = Training(on_step=others)
    refused: list[str] = []
    claim = shop.queue.claim

    def claiming(job: Job, *arguments: Any, **options: Any) -> Any:
        try:
            return claim(job, *arguments, **options)
        except ConflictError:
            refused.append(job.id)
            raise

    shop.queue.claim = claiming  # type: ignore[method-assign]
    shop.work(stage)
    assert stage.ran == ["job-0000", "job-0201"]
    assert len(refused) <= 10


def test_a_survey_looks_at_what_may_have_changed(tmp_path: Path) -> None:
    """New ones twice, running ones with checkpoints too, others not until five minutes are over."""
    write_jobs(tmp_path, 40)  # of which 20 run
    now = 0.0
    store = Counting(tmp_path)
    queue = Queue(store)
    survey = Survey(queue, lambda job_id, error: None, clock=lambda: now)

    def reads() -> int:
        store.asked.clear()
        survey.jobs()
        return store.asked["reads"]

    assert reads() == 80
    assert reads() == 40
    for number in range(2, 10):  # of which 4 run
        queue.cancel(f"job-{number:05d}")
    assert reads() == 40, "of each the copy, and that nothing follows"
    assert reads() == 32
    queue.submit("new", {"seed": 1})
    assert reads() == 34
    queue.submit("behind", {"seed": 1, "after": ["new"]})
    assert reads() == 34
    assert reads() == 33, "what another waits for is looked at"


@pytest.mark.parametrize("verb", ["retry", "unhold", "prioritize"])
def test_word_of_a_job_that_is_brought_forward(verb: str) -> None:
    """It is seen at the next look; without the word, five minutes later."""
    now = 0.0
    store = MemoryStore()
    queue = Queue(store)
    survey = Survey(queue, lambda job_id, error: None, clock=lambda: now)
    for name in ("told", "untold"):
        queue.submit(name, {"seed": 1})
        {"retry": queue.cancel, "unhold": queue.hold}.get(verb, queue.job)(name)
    before = {job.id: job for job in survey.jobs()}

    def changed() -> set[str]:
        return {job.id for job in survey.jobs() if job != before[job.id]}

    arguments = (5,) if verb == "prioritize" else ()
    getattr(queue, verb)("told", *arguments)
    assert changed() == {"told"}
    getattr(queue, verb)("untold", *arguments)
    store.delete(NEWS)
    store.put(NEWS, survey._news or b"")  # the word was lost
    assert changed() == {"told"}
    now = 301.0
    assert changed() == {"told", "untold"}


def test_looks_at_a_whole_queue_are_rarer_the_longer_it_is() -> None:
    """10,000 reads an hour, be there ever so many jobs."""
    now = 0.0
    store = MemoryStore()
    queue = Queue(store)
    for number in range(2_000):
        queue.submit(f"job-{number:04d}", {"seed": 1})
    survey = Survey(queue, lambda job_id, error: None, clock=lambda: now)
    reads_of(store, survey.jobs)
    total = 0
    for _ in range(60):
        now += 60.0
        total += reads_of(store, survey.jobs)["read"] - 1  # the word
    assert total <= 10_000


def test_word_of_a_revived_job_outlives_a_look_that_failed() -> None:
    """The bucket goes away between the word and the jobs: the next look still sees it."""
    store = MemoryStore()
    queue = Queue(store)
    survey = Survey(queue, lambda job_id, error: None, clock=lambda: 0.0)
    queue.submit("cats", {"seed": 1})
    queue.cancel("cats")
    assert [job.state for job in survey.jobs()] == ["cancelled"]
    queue.retry("cats")

    def away(number: int, operation: str, key: str) -> None:
        if operation == "folders":
            raise StoreError("no route to the bucket")

    store.hook = away
    with pytest.raises(StoreError):
        survey.jobs()
    store.hook = None
    assert [job.state for job in survey.jobs()] == ["queued"]


def write_jobs(root: Path, jobs: int) -> None:
    """Write a store of many jobs in all stages of life, without syncing each file."""
    memory = MemoryStore()
    queue = Queue(memory)
    samples = []
    for number, commits in enumerate([0, 0, 1, 5]):
        job = queue.submit(f"sample-{number}", {"seed": number, "text": "x" * 1000})
        if commits:
            lease = queue.claim(job, ME)
            lease.renew(step=1, metrics={"loss": 1.0})
            for step in range(commits):
                lease.commit(
                    Commit(step=step, epoch=0, checkpoints=[{"step": step, "key": "k" * 100}] * 2)
                )
        samples.append([(key, memory.read(key) or b"") for key in memory.list(f"jobs/{job.id}/")])
    for number in range(jobs):
        name = f"job-{number:05d}"
        for key, data in samples[number % len(samples)]:
            old = key.split("/")[1]
            path = root / key.replace(f"jobs/{old}/", f"jobs/{name}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            data = re.sub(rb',"sum\d+":"\w+"', b"", data)  # the hash of the record as it was
            path.write_bytes(data.replace(f'"id":"{old}"'.encode(), f'"id":"{name}"'.encode()))


def test_a_workers_own_object_is_written_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For `status --workers`: once a minute, be there news or not."""
    now = 0.0
    monkeypatch.setattr("runner.engine.identity.boot_clock", lambda: now)
    store = Counting(tmp_path)
    for pid in (2, 3):
        presence.tell(
            store, Presence(owner={"host": "lab", "pid": pid}, sent_at=utc_now(), left={})
        )

    def hour(worker: Identity, *, news: bool) -> dict[str, int]:
        nonlocal now
        store.asked.clear()
        for look in range(360):
            worker.tell({"cats": f"for the {look if news else 0}th reason"})
            now += 10.0
        return dict(store.asked)

    worker = Identity(store, ME, Looking())
    first = hour(worker, news=False)
    assert first == {"writes": 60, "listings": 1, "round trips": 1, "reads": 2}
    assert hour(worker, news=True) == {"writes": 60}
    worker.leave()
    assert [one.worker for one in presence.everyone(store)] == ["lab:2", "lab:3"]


def test_workers_that_died_are_forgotten(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for pid, days in ((2, 1), (3, 8)):
        sent = utc_now() - timedelta(days=days)
        presence.tell(store, Presence(owner={"host": "lab", "pid": pid}, sent_at=sent, left={}))
    gone = {**this_process(), "started": "1"}  # that it is gone is known here
    presence.tell(store, Presence(owner=gone, sent_at=utc_now(), left={}))
    assert [one.worker for one in presence.everyone(store)] == ["lab:2", "lab:3"]
    store.put("workers/seen/odd.json", b'{"owner": 7}')
    Identity(store, ME, Looking()).tell({})
    assert [one.worker for one in presence.everyone(store)] == ["here:1", "lab:2"]
    assert store.list("workers/seen/") == [
        f"workers/seen/{name}.json" for name in ("here_1", "lab_2", "odd")
    ]


class Counting(FileStore):
    """Counts what a bucket would be asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: Counter[str] = Counter()

    def read_many(
        self, keys: Sequence[str], *, max_bytes: int = MAX_RECORD
    ) -> list[bytes | StoreError | None]:
        self.asked["round trips"] += 1
        self.asked["reads"] += len(keys)
        return super().read_many(keys, max_bytes=max_bytes)

    def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        self.asked["writes"] += 1
        super().put(key, data)

    def folders(self, prefix: str) -> list[str]:
        self.asked["listings"] += 1
        return super().folders(prefix)

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        self.asked["listings"] += 1
        return super().list(prefix, after=after)


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.chaos)])
def test_status_of_many_jobs_asks_for_little(tmp_path: Path, count: int) -> None:
    """Two reads a job in two round trips, one listing. (Its time: `make bench`.)"""
    write_jobs(tmp_path, count)
    store = Counting(tmp_path)
    jobs = Queue(store).jobs()
    assert [job.id for job in jobs] == [f"job-{number:05d}" for number in range(count)]
    assert store.asked == {"listings": 1, "round trips": 2, "reads": 2 * count}


def test_64_workers_run_every_job_once() -> None:
    """Interleaved at every store operation; `chaos` does it with 10,000 jobs."""
    run_all(jobs=400, workers=64)


@pytest.mark.chaos
def test_64_workers_run_10_000_jobs_once() -> None:
    run_all(jobs=10_000, workers=64)


def run_all(*, jobs: int, workers: int) -> None:
    store, generator = MemoryStore(), Random(1)
    queue = Queue(store)
    names = [f"job-{number:05d}" for number in range(jobs)]
    for name in names:
        queue.submit(name, {"name": name})
    running = [work(queue, names, f"w{number}", generator) for number in range(workers)]
    replies: list[object] = [None] * workers
    while running:
        index = generator.randrange(len(running))
        try:
            operation = running[index].send(replies[index])
        except StopIteration:
            del running[index], replies[index]
            continue
        replies[index] = perform(store, operation, sleep=lambda _seconds: None)
    for name in names:
        records = [
            log.decode(store.read(key) or b"", key) for key in store.list(f"jobs/{name}/log/")
        ]
        assert [record["kind"] for record in records] == [
            "submit",
            *("claim", "finish", "claim", "finish"),
        ]
        assert records[-1]["state"] == "succeeded"


def work(queue: Queue, names: list[str], me: str, generator: Random) -> Steps[None]:
    """Go through the jobs from a random place on, until all have ended."""
    start = generator.randrange(len(names))
    finish = partial(
        transitions.finished, final={"step": 1}, evaluation=None, evaluate=True, notes=()
    )
    left = names[start:] + names[:start]
    while left:
        name = left.pop()
        job = yield from protocol.load(name)
        if job is None or job.ended:
            continue
        left.insert(0, name)
        if job.state is not transitions.State.QUEUED:
            continue
        try:
            claimed = yield from protocol.claim(
                job, {"host": me}, lease_seconds=60.0, nonce=random_nonce, now=utc_now
            )
        except ConflictError:
            continue
        yield from Holder(claimed, nonce=random_nonce, now=utc_now).end(finish)
