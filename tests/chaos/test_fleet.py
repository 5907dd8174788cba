"""Eight workers, forty jobs, one bucket, and ten minutes of SIGKILL, SIGSTOP and SIGTERM.

Every job ends once, with the digest of an undisturbed run, and is evaluated once. The table at
the end has the figures that nobody publishes: how long until a job has its next owner, what each
kill cost, how often a job was run twice. `RUNNER_CHAOS_SECONDS` sets how long it is disturbed.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any

import pytest

from runner.cli.live import PlainReporter
from runner.engine.preemption import StopRequest
from runner.engine.worker import BEATS_PER_LEASE, Worker
from runner.queue import drain
from runner.queue.job import Job, State, from_json
from runner.queue.queue import Queue
from runner.store.base import Store
from runner.store.filesystem import open_store
from runner.store.log import decode
from tests.chaos import hashing
from tests.harness import REPOSITORY
from tests.store.memory import MemoryStore
from tests.store.servers import Server, serving

EVERY = 10  # steps between two checkpoints
STEP_SECONDS = 0.1


@dataclass(kw_only=True)
class Plan:
    """How much of everything."""

    workers: int
    jobs: int
    chains: int  #: jobs that can run at once: fewer than workers, so that some are idle
    steps: int
    seconds: float  #: of disturbance
    pause: float  #: between two disturbances, on average
    lease: float = 9.0

    @property
    def poll(self) -> float:
        return self.lease / BEATS_PER_LEASE


@dataclass(kw_only=True)
class Hit:
    """A disturbance of a worker."""

    host: str
    what: str
    at: float
    until: float = 0.0  #: a frozen one thaws


@dataclass
class Fleet:
    """Worker processes that are started again when they end."""

    plan: Plan
    environment: Mapping[str, str]
    folder: Path
    hits: list[Hit] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    frozen: dict[str, float] = field(default_factory=dict)  #: until when
    busy: set[str] = field(default_factory=set)  #: that had a job when last looked
    born: int = 0

    def keep_alive(self) -> None:
        for host, process in list(self.running.items()):
            if process.poll() is not None:
                self.bury(host)
        while len(self.running) < self.plan.workers:
            self.start()

    def bury(self, host: str) -> None:
        process = self.running.pop(host)
        hit = next((hit.what for hit in reversed(self.hits) if hit.host == host), "none")
        self.codes[f"{hit}: exit {process.returncode}"] += 1
        self.said.append((self.folder / host).read_text(errors="replace"))

    def start(self) -> None:
        self.born += 1
        host = f"machine-{self.born}"
        with (self.folder / host).open("wb") as said:
            self.running[host] = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.hashing", "work"],
                stdout=said, stderr=said, cwd=REPOSITORY,
                env={**os.environ, **self.environment, "HASHING_HOST": host},
            )  # fmt: skip

    def disturb(self, random: Random) -> None:
        hosts = [name for name in self.running if name not in self.frozen]
        busy = [name for name in hosts if name in self.busy]
        if not hosts:
            return
        host = random.choice(busy if busy and random.random() < 0.8 else hosts)
        what = random.choice(["kill", "kill", "freeze", "term"])
        hit = Hit(host=host, what=what, at=time.time())
        if what == "freeze":
            hit.until = hit.at + random.choice([1.0, self.plan.lease / 2, 2 * self.plan.lease])
            self.frozen[host] = hit.until
        number = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "term": signal.SIGTERM}[what]
        self.running[host].send_signal(number)
        self.hits.append(hit)

    def thaw(self, *, all_of_them: bool = False) -> None:
        for host, until in list(self.frozen.items()):
            if all_of_them or time.time() >= until:
                del self.frozen[host]
                if host in self.running:
                    self.running[host].send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.thaw(all_of_them=True)
        for host, process in list(self.running.items()):
            process.wait(timeout=120)
            self.bury(host)

    def kill_all(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def specs(plan: Plan) -> Iterator[dict[str, Any]]:
    for number in range(plan.jobs):
        chained = number >= plan.chains
        yield {
            "name": f"job-{number:02d}",
            "seed": number,
            "steps": plan.steps + number % 7,
            "step_seconds": STEP_SECONDS,
            "every": EVERY,
            "after": [f"job-{number - plan.chains:02d}"] if chained else [],
            "limits": {"deaths": 1000},
            "evaluation": {},
        }


def undisturbed(plan: Plan) -> dict[str, tuple[str, float]]:
    """Final digest and evaluation of every job, by the same worker when nothing happens."""
    queue = Queue(MemoryStore())
    for spec in specs(plan):
        queue.submit(spec["name"], {**spec, "step_seconds": 0})
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        for module, name, stand_in in hashing.STAND_INS:
            context.setattr(module, name, stand_in)
        reporter = PlainReporter()
        context.setattr(reporter, "note", lambda text: None)
        Worker(queue, queue.store, stop=StopRequest(), reporter=reporter).work()
    return {job.id: outcome(job) for job in queue.jobs()}


def outcome(job: Job) -> tuple[str, float]:
    assert job.state is State.SUCCEEDED, f"{job.id} is {job.state}: {job.reason}"
    assert job.final is not None
    assert job.evaluation is not None
    return job.final["digest"], job.evaluation["top_1"]


def records(store: Store, job_id: str) -> list[Job]:
    keys = store.list(f"jobs/{job_id}/log/")
    return [from_json(decode(store.read(key) or b"", key), job_id) for key in keys]


@dataclass
class Figures:
    """What the disturbances cost."""

    takeovers: dict[str, list[float]] = field(default_factory=lambda: {"kill": [], "freeze": []})
    lost: list[int] = field(default_factory=list)  #: steps, for each kill in a training
    preempted_lost: list[int] = field(default_factory=list)  #: for each release
    claims: int = 0
    needless: int = 0  #: takeovers from a worker that nothing had happened to
    twice: int = 0  #: records beyond the first that end a stage, or steps committed again


def examine(store: Store, jobs: Sequence[str], fleet: Fleet, steps: Path) -> Figures:
    figures = Figures()
    for name in jobs:
        history = records(store, name)
        finished = [record for record in history if record.kind == "finish"]
        figures.twice += len(finished) - 2
        for before, record in pairwise(history):
            if record.kind == "commit" and record.step < before.step:
                figures.twice += 1
            if record.kind == "release":
                done = newest_step(steps, name, record.token)
                # stopped at once before its first step has ended: that one may be done by then
                first = "anything new to save" in record.reason
                if done is not None and str(record.stage) == "train":
                    figures.preempted_lost.append(max(0, done - record.step - first))
            if record.kind == "claim":
                figures.claims += 1
                if before.state is State.RUNNING:
                    examine_takeover(figures, before, record, fleet, steps)
    return figures


def examine_takeover(figures: Figures, before: Job, claim: Job, fleet: Fleet, steps: Path) -> None:
    host = (before.owner or {})["host"]
    at = claim.updated_at.timestamp()
    hits = [hit for hit in fleet.hits if hit.host == host and hit.at < at]
    if not hits:
        figures.needless += 1
        return
    hit = hits[-1]
    if hit.what in figures.takeovers:
        figures.takeovers[hit.what].append(at - hit.at)
    done = newest_step(steps, claim.id, before.token, until=hit.at)
    if hit.what == "kill" and done is not None and str(claim.stage) == "train":
        figures.lost.append(max(0, done - claim.step))


def newest_step(steps: Path, job_id: str, token: int, until: float = 1e12) -> int | None:
    """The newest step that an attempt really did."""
    path = steps / f"{job_id}.{token}"
    if not path.exists():
        return None
    lines = [line.split() for line in path.read_text().splitlines()]
    done = [int(line[0]) for line in lines if len(line) == 2 and float(line[1]) <= until]
    return done[-1] if done else None


def run_fleet(plan: Plan, server: Server, folder: Path, seed: int) -> tuple[Fleet, Figures, float]:
    url = server.url(f"fleet-{token_hex(4)}")
    store = open_store(url, storage_options=server.options)
    queue = Queue(store)
    for spec in specs(plan):
        queue.submit(spec["name"], spec)
    steps = folder / "steps"
    steps.mkdir()
    fleet = Fleet(
        plan,
        {
            **server.environment(),
            "RUNNER_STORE": url,
            "RUNNER_LEASE_SECONDS": str(plan.lease),
            "HASHING_STEPS": str(steps),
        },
        folder,
    )
    random, began = Random(seed), time.monotonic()
    names = [spec["name"] for spec in specs(plan)]
    looked_at = began
    next_at = until = float("inf")  # nothing is disturbed before there is work under way
    pool = ThreadPoolExecutor(1)  # looking takes seconds where the server is busy
    look = pool.submit(queue.jobs)
    try:
        while True:
            now = time.monotonic()
            fleet.thaw()
            fleet.keep_alive()
            if until == float("inf") and fleet.busy:
                next_at, until = now, now + plan.seconds
            if next_at <= now < until:
                fleet.disturb(random)
                next_at = now + random.uniform(0.4, 1.6) * plan.pause
            if look.done() and now - looked_at > 2.0:
                looked_at, jobs = now, look.result()
                look = pool.submit(queue.jobs)
                if all(job.ended for job in jobs):
                    break
                ended = sum(job.ended for job in jobs)
                print(f"{now - began:.0f} s: {ended} jobs ended, {len(fleet.hits)} interruptions")
                fleet.busy = {str(job.owner["host"]) for job in jobs if job.owner}
                assert now - began < 3 * plan.seconds + 300, said_of(queue)
            time.sleep(0.1)
        seconds = time.monotonic() - began
        fleet.thaw(all_of_them=True)
        time.sleep(2 * plan.poll)  # the thawed find out
        drain.request(store)
        fleet.end()
    finally:
        fleet.kill_all()
        pool.shutdown()
    return fleet, examine(store, names, fleet, steps), seconds


def said_of(queue: Queue) -> str:
    return "; ".join(f"{j.id} {j.state} {j.stage} {j.step}" for j in queue.jobs() if not j.ended)


def table(plan: Plan, fleet: Fleet, figures: Figures, seconds: float) -> str:
    hits = Counter(hit.what for hit in fleet.hits)
    bound = plan.lease + plan.poll
    rows = [
        f"{plan.workers} workers, {plan.jobs} jobs of {plan.steps} steps or more, one S3 bucket,"
        f" {seconds:.0f} s, lease {plan.lease:g} s",
        f"interruptions               {sum(hits.values())}: {hits['kill']} SIGKILL,"
        f" {hits['freeze']} SIGSTOP, {hits['term']} SIGTERM",
        f"next owner after a kill     {spread(figures.takeovers['kill'])} s;"
        f" TTL + poll {bound:g} s",
        f"next owner after a freeze   {spread(figures.takeovers['freeze'])} s",
        f"steps lost to a kill        {spread(figures.lost)}; a checkpoint every"
        f" {EVERY}, one on its way: {2 * EVERY}",
        f"steps lost to a SIGTERM     {spread(figures.preempted_lost)}",
        f"claims                      {figures.claims}, of a job whose worker was well:"
        f" {figures.needless}",
        f"stages finished twice, steps committed twice: {figures.twice}",
        f"exits                       {dict(sorted(fleet.codes.items()))}",
    ]
    return "\n".join(rows)


def spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    worst = ordered[-1]
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return (
        f"median {statistics.median(values):.1f}, 95 % {p95:.1f}, most {worst:.1f} ({len(values)})"
    )


def check(plan: Plan, server: Server, folder: Path) -> None:
    seed = int(os.environ.get("RUNNER_CHAOS_SEED", Random().randrange(1 << 20)))
    expected = undisturbed(plan)
    fleet, figures, seconds = run_fleet(plan, server, folder, seed)
    print(f"\nseed {seed}\n{table(plan, fleet, figures, seconds)}")
    options = fleet.environment["RUNNER_STORE"]
    queue = Queue(open_store(options, storage_options=server.options))
    assert {job.id: outcome(job) for job in queue.jobs()} == expected
    assert figures.twice == 0
    for job in queue.jobs():
        kinds = Counter((str(r.stage), r.kind) for r in records(queue.store, job.id))
        ends = [r for r in records(queue.store, job.id) if r.kind == "finish"]
        assert [str(end.state) for end in ends] == ["queued", "succeeded"], kinds
    assert not [text for text in fleet.said if "Traceback" in text], "a worker crashed"
    said = "\n".join(fleet.said)
    assert set(figures.preempted_lost) <= {0}, f"a SIGTERM lost steps:\n{said}"
    # one interval, and what was done while the checkpoint was on its way; a busy machine is slow
    if len(figures.lost) > 20:
        assert statistics.median(figures.lost) <= 2 * EVERY
        assert statistics.median(figures.takeovers["kill"]) <= plan.lease + 3 * plan.poll + 5


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("s3") as running:
        yield running


@pytest.mark.slow
def test_a_small_fleet_in_trouble(server: Server, tmp_path: Path) -> None:
    """Half a minute of it, in the default tests."""
    plan = Plan(workers=4, jobs=6, chains=3, steps=30, seconds=15, pause=1.2, lease=6.0)
    check(plan, server, tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_fleet_in_trouble(server: Server, tmp_path: Path) -> None:
    """Eight workers, forty jobs, ten minutes."""
    seconds = float(os.environ.get("RUNNER_CHAOS_SECONDS", "600"))
    steps = max(20, round(seconds * 5 / 40 / STEP_SECONDS * 0.3))
    plan = Plan(workers=8, jobs=40, chains=5, steps=steps, seconds=seconds, pause=2.4)
    check(plan, server, tmp_path)
