"""The queue's real protocol, run under seeded schedules of everything that can go wrong.

Each worker is a generator that yields store operations; the simulator decides who goes next
and how each operation ends. It loses replies, lets requests land late (after their sender gave
up, died or was fenced) or twice, answers "exists" for a client's own hidden resend, shows stale
listings, fails requests outright, crashes workers and freezes them for long; clocks are wrong
by an hour and drift. Every record is checked when it lands, and every belief of a worker
against the log. The same seed gives the same schedule.
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any
from unittest.mock import patch

from runner.commit import Commit
from runner.errors import ConflictError, LeaseLostError, StoreError
from runner.queue import job as jobs
from runner.queue import protocol, removal
from runner.queue.job import Job, Stage, State
from runner.queue.lease import Holder
from runner.queue.protocol import Watch
from runner.store import log, thinning
from runner.store.base import Created
from runner.store.steps import (
    Age,
    Create,
    Delete,
    Folders,
    List,
    Operation,
    Pause,
    Put,
    Read,
    ReadMany,
)  # fmt: skip

KEEP = 2
KEPT, AT_ONCE, FEW = 4, 2, 6  # commits of an owner: a listing here lacks the newest three at most
CALM = 900  # ticks after which nothing goes wrong any more
LIMIT = 12_000  # ticks by which every job must have ended
AFTER_THE_END = {
    (State.FAILED, "retry"),
    (State.FAILED, "cancel"),
    (State.CANCELLED, "retry"),
    (State.SUCCEEDED, "evaluate"),
    (State.FAILED, "evaluate"),
    (State.CANCELLED, "evaluate"),
}
USERS = ("cancel", "hold", "hold", "unhold", "unhold", "retry", "retry", "priority", "evaluate")
START = datetime(2026, 1, 1, tzinfo=UTC)


class ViolationError(AssertionError):
    """A promise was broken."""


Program = Generator[Any, Any, None]


@dataclass(kw_only=True)
class Client:
    """A process: a worker, or a user at the command line."""

    name: str
    program: Program
    skew: float  #: seconds that its clocks are off
    rate: float  #: seconds of its clock in a second
    reply: object = None
    error: StoreError | None = None
    started: bool = False
    asleep_until: int = 0
    held_back: Create | None = None  #: it fell asleep right before this


@dataclass(kw_only=True)
class Result:
    """What happened in a schedule."""

    counts: Counter[str] = field(default_factory=Counter)
    ticks: int = 0


class Simulation:
    """One schedule. `overwrite` and `collect` break the store itself, to test the checks."""

    def __init__(self, seed: int, *, overwrite: bool = False, collect: bool = False) -> None:
        self.random = Random(seed)
        self.overwrite, self.collect = overwrite, collect
        self.trouble = self.random.choice([0.0, 0.05, 0.15, 0.3])
        self.lease = self.random.choice([15.0, 40.0, 100.0])
        self.frozen = self.random.choice([0.0, 0.02, 0.05])
        self.keeps_times = self.random.random() < 0.5
        self.same_host = self.random.random() < 0.3
        self.users = (*USERS, *["remove"] * 9) if self.random.random() < 0.3 else USERS
        long = self.random.random() < 0.3
        self.steps = 40 if long else 3  # of a training
        self.often = 0.03 if long else 0.006  # a user comes, in a tick
        self.naps = [200, 400, 600] if long else [30, 100, 400]
        self.slow = 0.5 if long else 0.0  # creates before which a client falls asleep
        self.ids = ["cats", "dogs"][: self.random.choice([1, 1, 2])]
        self.store: dict[str, bytes] = {}
        self.written: dict[str, int] = {}
        self.logs: dict[str, list[Job]] = {name: [] for name in self.ids}
        self.late: list[tuple[Client, Create | Put]] = []
        self.gone: set[str] = set()
        self.claims: dict[tuple[str, int], str] = {}
        self.doubtful: set[str] = set()  # claims whose claimer gave up: without an answer, or later
        self.clients: list[Client] = []
        self.born = self.nonces = self.tick = 0
        self.result = Result()

    def run(self) -> Result:
        """Run the schedule to its end, or raise ViolationError."""
        with patch.multiple(thinning, KEPT=KEPT, AT_ONCE=AT_ONCE, FEW=FEW):
            return self._run()

    def _run(self) -> Result:
        for name in self.ids:
            self._start(f"submit-{name}", partial(self._submit, name))
        for _ in range(self.random.choice([2, 3, 4])):
            self._start_worker()
        while not self._over():
            self.tick += 1
            if self.tick > LIMIT:
                raise ViolationError(f"jobs never end: {[self._head(name) for name in self.ids]}")
            self._disturb()
            self._step()
        while self.late:
            self._land(0)
        self.result.ticks = self.tick
        return self.result

    # The schedule

    def _over(self) -> bool:
        return all(self.logs[name] and self.logs[name][-1].ended for name in self.ids)

    def _start(self, name: str, program: Callable[[Client], Program]) -> None:
        client = Client(
            name=f"{name}-{self.born}",
            program=iter(()),  # type: ignore[arg-type]
            skew=self.random.uniform(-3600, 3600),
            rate=self.random.choice([0.8, 1.0, 1.0, 1.25]),
        )
        client.program = program(client)
        self.born += 1
        self.clients.append(client)

    def _start_worker(self) -> None:
        self._start("worker", self._work)

    def _disturb(self) -> None:
        calm = self.tick > CALM
        if self.late and (calm or self.random.random() < 0.03):
            self._land(self.random.randrange(len(self.late)))
        if self.collect and self.random.random() < 0.02:
            self._collect_logs()
        if calm:
            if self.tick % 50 == 0:
                self._start("user", lambda me: self._user(me, "unhold"))
        elif self.random.random() < self.often:
            change = self.random.choice(self.users)
            self._start("user", lambda me: self._user(me, change))

    def _step(self) -> None:
        awake = [client for client in self.clients if client.asleep_until <= self.tick]
        if not awake:
            return
        client = self.random.choice(awake)
        if self.tick <= CALM and self.random.random() < self.frozen:
            self.result.counts["freezes"] += 1
            client.asleep_until = self.tick + self.random.choice(self.naps)
            return
        if self.tick <= CALM and self.random.random() < 0.003 and "worker" in client.name:
            self.result.counts["crashes"] += 1
            self._bury(client)
            self._start_worker()
            return
        self._advance(client)

    def _advance(self, client: Client) -> None:
        if client.held_back is not None:
            operation, client.held_back = client.held_back, None
            client.reply = self._create(client, operation, False)
            return
        try:
            if client.error is not None:
                error, client.error = client.error, None
                operation = client.program.throw(error)
            else:
                operation = client.program.send(client.reply if client.started else None)
            client.started = True
        except StopIteration:
            self._bury(client)
            return
        client.reply = None
        try:
            client.reply = self._serve(client, operation)
        except StoreError as error:
            client.error = error

    def _bury(self, client: Client) -> None:
        self.clients.remove(client)
        self.gone.add(client.name)

    # The store

    def _serve(self, client: Client, operation: Operation | Delete) -> object:
        troubled = self.tick <= CALM and self.random.random() < self.trouble
        match operation:
            case Pause():
                client.asleep_until = self.tick + self.random.randrange(1, 12)
                return None
            case Create():
                commits = b'"kind":"commit"' in operation.data
                if self.tick <= CALM and not commits and self.random.random() < self.slow:
                    client.asleep_until = self.tick + self.random.choice(self.naps)
                    client.held_back = operation
                    return None
                return self._create(client, operation, troubled)
            case Put():
                self._put(client, operation, troubled)
                return None
            case Delete(keys):
                self._delete(client, keys)
                return None
        if troubled and self.random.random() < 0.3:
            raise StoreError("no reply")
        return self._look(operation, troubled)

    def _delete(self, client: Client, keys: Sequence[str]) -> None:
        """Delete data, and old commits of a job's owner.

        A removal dies before the log goes, so that all see what follows it.
        """
        for key in keys:
            if key.endswith("head.json"):
                continue
            if "/log/" in key:
                history = self.logs[key.split("/")[1]]
                if history[-1].kind == jobs.REMOVED:
                    continue
                self._check_thinning(client, history, log.numbers([key])[0])
            self.store.pop(key, None)
        self._check_references()

    def _check_thinning(self, client: Client, history: Sequence[Job], number: int) -> None:
        row = [job.kind for job in history[number - 1 : number + 1]]
        if row != ["commit", "commit"] or number + KEPT >= len(history):
            raise ViolationError(f"{client.name} deleted record {number} of {len(history)}: {row}")
        self.result.counts["thinned out"] += 1

    def _look(self, operation: Operation, troubled: bool) -> object:
        match operation:
            case Read(key):
                return self.store.get(key)
            case ReadMany(keys):
                return [self.store.get(key) for key in keys]
            case List(prefix):
                found = sorted(key for key in self.store if key.startswith(prefix))
                return found[: -self.random.randrange(1, 4)] if troubled else found
            case Folders():
                return self.ids
            case Age(key):
                if not self.keeps_times or key not in self.written:
                    return None
                return float(self.tick - self.written[key])
        raise AssertionError(operation)

    def _create(self, client: Client, operation: Create, troubled: bool) -> Created:
        if not troubled:
            return self._apply(client, operation)
        match self.random.choice(["lost", "nothing", "late", "twice", "resent"]):
            case "lost":
                self.result.counts["lost replies"] += 1
                self._apply(client, operation)
                return Created.UNKNOWN
            case "nothing":
                return Created.UNKNOWN
            case "late":
                self.late.append((client, operation))
                return Created.UNKNOWN
            case "twice":
                self.late.append((client, operation))
                return self._apply(client, operation)
        self.result.counts["own resends"] += self._apply(client, operation) is Created.YES
        return Created.EXISTS

    def _put(self, client: Client, operation: Put, troubled: bool) -> None:
        if troubled and self.random.random() < 0.5:
            self.late.append((client, operation))  # an old hint or heartbeat over a newer one
        if troubled and self.random.random() < 0.5:
            raise StoreError("no reply")
        self._store(operation.key, operation.data)

    def _land(self, index: int) -> None:
        client, operation = self.late.pop(index)
        if isinstance(operation, Put):
            self._store(operation.key, operation.data)
        elif self._apply(client, operation) is Created.YES:
            self.result.counts["late landings"] += 1

    def _apply(self, client: Client, operation: Create) -> Created:
        if operation.key in self.store and not self.overwrite:
            return Created.EXISTS
        self._check_record(client, operation)
        self._store(operation.key, operation.data)
        return Created.YES

    def _store(self, key: str, data: bytes) -> None:
        self.store[key] = data
        self.written[key] = self.tick

    def _collect_logs(self) -> None:
        for name in self.ids:
            for old in self.logs[name][:-1]:
                self.store.pop(log.slot(protocol.base(name), old.number), None)

    # The promises

    def _check_record(self, client: Client, operation: Create) -> None:
        record = log.decode(operation.data, operation.key)
        job_id = operation.key.split("/")[1]
        job, history = jobs.from_json(record, job_id), self.logs[job_id]
        if job.number < len(history):
            self._check_hole(job, history[job.number])
            return
        if job.number != len(history):
            raise ViolationError(f"{operation.key} was written when {len(history)} records were")
        if history:
            self._check_change(client, history[-1], job)
        self.logs[job_id].append(job)
        self.result.counts[job.kind] += 1
        self._check_references()

    def _check_hole(self, job: Job, gone: Job) -> None:
        """Whoever was late may fill the place of a commit, and must not believe in it.

        A commit comes there late only where its owner was in doubt and wrote it again.
        """
        again = (job.token, job.step, job.previous) == (gone.token, gone.step, gone.previous)
        if gone.kind != "commit" or (job.kind == "commit" and not again):
            raise ViolationError(f"{job.kind} {job.id}/{job.number} in the place of {gone.kind}")
        self.result.counts["holes filled"] += job.nonce != gone.nonce

    def _check_change(self, client: Client, before: Job, job: Job) -> None:
        name = f"{job.kind} {job.id}/{job.number} by {client.name}"
        if before.kind == jobs.REMOVED:
            raise ViolationError(f"{name} of a job that was removed")
        if job.previous != before.nonce:
            raise ViolationError(f"{name} does not follow the record before it")
        if job.kind == "claim":
            if job.token != before.token + 1 or job.owner != {"host": client.name}:
                raise ViolationError(f"{name}: token {before.token} -> {job.token}, {job.owner}")
            if before.state not in (State.QUEUED, State.RUNNING):
                raise ViolationError(f"{name} of a job that is {before.state}")
            self.result.counts["takeovers"] += before.state is State.RUNNING
        elif job.token != before.token:
            raise ViolationError(f"{name} changed the token")
        if job.kind == "quarantine":
            self._check_quarantine(before, name)
        if job.kind == "cancel":
            keeps = before.stage is Stage.EVALUATE and before.evaluation is not None
            if (job.state is State.SUCCEEDED) != keeps or job.evaluation != before.evaluation:
                raise ViolationError(f"{name}: it has {job.state}, results {before.evaluation}")
        owners = job.kind in ("commit", "finish", "release", "fail")
        if owners or (job.kind == "hold" and before.state is State.RUNNING):
            self._check_owner(client, before, job, name)
        elif job.kind == jobs.REMOVED:
            self._check_removal(before, name)
        elif before.ended and (before.state, job.kind) not in AFTER_THE_END:
            raise ViolationError(f"{name} after the end: it was {before.state}")

    def _check_removal(self, before: Job, name: str) -> None:
        """No job of an owner that may be alive."""
        if before.state is State.RUNNING:
            raise ViolationError(f"{name} of a job that is running")

    def _check_quarantine(self, before: Job, name: str) -> None:
        """Only a job whose owner is gone, and only for a reason."""
        if before.state is not State.RUNNING:
            raise ViolationError(f"{name} of a job that is {before.state}")
        if before.wish != jobs.HOLD and before.deaths + 1 < before.most_deaths:
            raise ViolationError(f"{name} after {before.deaths + 1} deaths")

    def _check_owner(self, client: Client, before: Job, job: Job, name: str) -> None:
        if before.state is not State.RUNNING or before.owner != {"host": client.name}:
            raise ViolationError(f"{name}, but {jobs.describe(before)}")
        if self.claims.get((job.id, job.token), client.name) != client.name:
            raise ViolationError(f"{name} under another worker's token")
        if job.kind == "commit":
            again = job.step == before.step and job.checkpoints[0] == before.checkpoints[0]
            if job.step != before.step + 1 and not again:
                raise ViolationError(f"{name}: step {before.step} -> {job.step}")
        if job.kind == "finish":
            self._check_finish(before, job, name)

    def _check_finish(self, before: Job, job: Job, name: str) -> None:
        kinds = Counter(record.kind for record in self.logs[before.id])
        evaluated = sum(
            record.kind == "finish" and record.state is State.SUCCEEDED
            for record in self.logs[before.id]
        )
        if evaluated > kinds["evaluate"]:
            raise ViolationError(f"{name}: evaluated twice")
        waits = State.HELD if before.wish == jobs.HOLD else State.QUEUED
        queued = (job.state, job.stage, job.step) == (waits, Stage.EVALUATE, self.steps)
        if before.stage is Stage.TRAIN and not queued:
            raise ViolationError(f"{name}: the evaluation is not queued with it")

    def _check_references(self) -> None:
        for job in (history[-1] for history in self.logs.values() if history):
            for one in (*job.checkpoints, job.final, job.evaluation):
                if one is not None and one["manifest"] not in self.store:
                    raise ViolationError(f"{job.id}: committed {one['manifest']} is lost")

    def _head(self, job_id: str) -> str:
        history = self.logs[job_id]
        return f"{job_id} {jobs.describe(history[-1])}" if history else f"{job_id} is not there"

    def _believes(self, client: Client, job: Job) -> None:
        """A worker was told that this record of it counts."""
        history = self.logs[job.id]
        if job.number >= len(history) or history[job.number].nonce != job.nonce:
            raise ViolationError(f"{client.name} believes in {job.kind} {job.number} of {job.id}")
        if job.kind == "claim":
            holder = self.claims.setdefault((job.id, job.token), client.name)
            if holder != client.name:
                raise ViolationError(f"{holder} and {client.name} own token {job.token}")

    def _gave_up(self, client: Client, job_id: str, why: str) -> None:
        """A worker was told that the job is not its own."""
        self.result.counts[why] += 1
        head = self.logs[job_id][-1]
        claims = [record for record in self.logs[job_id] if record.kind == "claim"]
        if (
            claims and claims[-1].nonce in self.doubtful
        ):  # it landed late: nobody uses it, and the lease expires
            self.result.counts["late claims"] += 1
            return
        if head.state is State.RUNNING and head.owner == {"host": client.name}:
            raise ViolationError(f"{client.name} was told that {job_id} is not its own: it is")

    # The processes

    def _nonce(self) -> str:
        self.nonces += 1
        return f"n{self.nonces}"

    def _clock(self, client: Client) -> float:
        return client.skew + client.rate * self.tick

    def _now(self, client: Client) -> datetime:
        return START + timedelta(seconds=self._clock(client))

    def _alive(self, owner: Mapping[str, Any]) -> bool | None:
        return False if self.same_host and owner["host"] in self.gone else None

    def _tools(self, client: Client) -> dict[str, Any]:
        return {"nonce": self._nonce, "now": lambda: self._now(client)}

    def _submit(self, job_id: str, client: Client) -> Program:
        tools = self._tools(client)
        while True:
            try:
                job = yield from protocol.submit(job_id, {"seed": 1}, **tools)
            except StoreError:
                continue
            except ConflictError as error:
                if self.logs[job_id][-1].kind == jobs.REMOVED:
                    return
                raise ViolationError(f"the only submitter of {job_id} has a rival") from error
            if job.id != job_id:
                raise ViolationError("another job was submitted")
            return

    def _user(self, client: Client, change: str) -> Program:
        job_id, tools = self.random.choice(self.ids), self._tools(client)
        changes: dict[str, Callable[[Job], Job]] = {
            "hold": jobs.put_on_hold,
            "unhold": jobs.unheld,
            "retry": jobs.retried,
            "priority": partial(jobs.prioritized, priority=self.random.randrange(-3, 4)),
            "evaluate": jobs.to_evaluate,
        }
        try:
            if change == "remove":
                seen = yield from protocol.load(job_id)
                if seen is not None and seen.state is not State.RUNNING:
                    yield from removal.remove(job_id, seen, **tools)
            elif change == "cancel":
                self._believes(client, (yield from protocol.cancel(job_id, **tools)))
            else:
                steps = protocol.change(job_id, changes[change], **tools)
                self._believes(client, (yield from steps))
        except (ConflictError, StoreError, LookupError):
            pass

    def _work(self, client: Client) -> Program:
        watch, tools, owner = Watch(), self._tools(client), {"host": client.name}
        issued: list[str] = []

        def claim_nonce() -> str:
            issued.append(self._nonce())
            return issued[-1]

        while True:
            issued.clear()
            job_id = self.random.choice(self.ids)
            yield Pause(0)
            try:
                job = yield from protocol.load(job_id)
                if job is None or job.state not in (State.QUEUED, State.RUNNING):
                    continue
                verdict = yield from protocol.availability(
                    job, watch=watch, clock=lambda: self._clock(client), alive=self._alive
                )
                if not verdict.claimable:
                    continue
                claimed = yield from protocol.claim(
                    job, owner, lease_seconds=self.lease, **{**tools, "nonce": claim_nonce}
                )
            except LeaseLostError:
                raise AssertionError("a claim can't lose a lease") from None
            except ConflictError:
                self._gave_up(client, job_id, "claims refused")
                continue
            except StoreError:
                self.doubtful.update(issued)
                continue
            if claimed.state is not State.RUNNING:
                self.result.counts["held at a claim"] += 1
                continue
            self._believes(client, claimed)
            try:
                yield from self._attempt(client, Holder(claimed, **tools))
            except ConflictError:
                self._gave_up(client, job_id, "leases lost")
            except StoreError:
                self.result.counts["attempts given up"] += 1
                self.doubtful.add(claimed.nonce)

    def _attempt(self, client: Client, holder: Holder) -> Program:
        if holder.job.checkpoints:
            newest = holder.job.checkpoints[0]["manifest"]
            found = yield from self._insist(lambda: _one(Read(newest)))
            if found is None:  # fine for one that was frozen and lost the job meanwhile
                yield from self._insist(lambda: holder.renew({}))
                raise ViolationError(f"{client.name} can't resume from {newest}")
        if holder.job.stage is Stage.TRAIN:
            while holder.job.step < self.steps:
                if (yield from self._interrupted(client, holder)):
                    return
                yield from self._train_one_step(client, holder)
            change = partial(jobs.finished, final=holder.job.checkpoints[0], evaluation=None)
        else:
            if (yield from self._interrupted(client, holder)):
                return
            evaluation = yield from self._write(holder, "evaluation")
            change = partial(jobs.finished, final=None, evaluation=evaluation)
        yield from self._insist(lambda: holder.end(partial(change, evaluate=True, notes=())))

    def _interrupted(self, client: Client, holder: Holder) -> Generator[Any, Any, bool]:
        with suppress(StoreError):
            yield from holder.renew({"step": holder.job.step})
        chance = self.random.random()
        if chance < 0.03 or holder.job.wish == jobs.HOLD:
            self.result.counts["holds obeyed"] += holder.job.wish == jobs.HOLD
            yield from self._insist(lambda: holder.end(partial(jobs.released, reason="notice")))
            return True
        if chance < 0.05:
            change = partial(jobs.failed, reason="its fault", retries=1, backoff_seconds=10.0)
            yield from self._insist(lambda: holder.end(change))
            return True
        return False

    def _train_one_step(self, client: Client, holder: Holder) -> Program:
        before = holder.job
        reference = yield from self._write(holder, "checkpoints")
        kept = [reference, *before.checkpoints][:KEEP]
        commit = Commit(step=before.step + 1, epoch=0, checkpoints=kept)
        change = partial(jobs.committed, commit=commit)
        job = yield from self._insist(lambda: holder.commit(change))
        self._believes(client, job)
        for old in before.checkpoints:
            if old not in kept:
                yield Delete([old["manifest"]])

    def _write(self, holder: Holder, what: str) -> Generator[Any, Any, dict[str, Any]]:
        key = f"{protocol.base(holder.job.id)}/{what}/t{holder.job.token}-{self._nonce()}.json"
        yield from self._insist(lambda: _one(Put(key, b"{}")))
        return {"manifest": key}

    def _insist(self, steps: Callable[[], Generator[Any, Any, Any]]) -> Generator[Any, Any, Any]:
        """Try again after a StoreError, as an engine does, but not for ever."""
        for _ in range(3):
            try:
                return (yield from steps())
            except StoreError:
                yield Pause(0)
        return (yield from steps())


def _one(operation: Operation) -> Generator[Any, Any, Any]:
    return (yield operation)
