"""Hypothesis looks for a sequence of calls after which the queue and its model differ."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from runner.commit import Commit
from runner.errors import ConflictError, LeaseLostError
from runner.queue.job import Job, Stage, State
from runner.queue.lease import Lease
from runner.queue.queue import Queue
from runner.store import log
from tests.store.memory import Fault, MemoryStore

NAMES = st.sampled_from(["cats", "dogs"])
WORKERS = st.sampled_from(["w1", "w2", "w3"])


class QueueMachine(RuleBasedStateMachine):
    """Users and workers over a store whose creates lose every third reply."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.creates = 0
        self.store = MemoryStore(clock=lambda: self.seconds, hook=self.hook)
        self.queue = Queue(self.store, lease_seconds=60)
        self.owners: dict[str, Lease | None] = {}  # who may write, as the model sees it
        self.states: dict[str, State] = {}
        self.stages: dict[str, Stage] = {}
        self.steps: dict[str, int] = {}
        self.deaths: dict[str, int] = {}  # of owners, since the last step forward
        self.wishes: dict[str, bool] = {}  # whether its user wants the running job held

    def hook(self, number: int, operation: str, key: str) -> Fault | None:
        if operation != "create":
            return None
        self.creates += 1
        return (None, Fault.REPLY_LOST, Fault.SAYS_EXISTS)[self.creates % 3]

    def became(self, name: str, state: State, owner: Lease | None = None) -> None:
        self.states[name], self.owners[name] = state, owner
        self.wishes[name] = False

    @rule(name=NAMES)
    def submit(self, name: str) -> None:
        job = self.queue.submit(name, {"name": name})
        if name not in self.states:
            assert job.number == 0
            self.became(name, State.QUEUED)
            self.stages[name], self.steps[name], self.deaths[name] = Stage.TRAIN, 0, 0

    @rule(name=NAMES)
    def submit_something_else(self, name: str) -> None:
        if name in self.states:
            try:
                self.queue.submit(name, {"name": name, "seed": 2})
            except ConflictError:
                return
            raise AssertionError("another spec was taken")

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.seconds += seconds

    @rule(target=leases, name=NAMES, worker=WORKERS)
    def claim(self, name: str, worker: str) -> Lease | None:
        if name not in self.states:
            return None
        job = self.queue.job(name)
        claimable = self.queue.availability(job).claimable
        lost = job.state is State.RUNNING
        to_hold = lost and (self.wishes[name] or self.deaths[name] == 2)
        try:
            lease = self.queue.claim(job, {"host": worker, "at": self.seconds})
        except ConflictError:
            assert not claimable or to_hold
            if claimable:
                self.became(name, State.HELD)
            return None
        assert not to_hold
        self.deaths[name] += lost
        assert claimable
        assert self.states[name] in (State.QUEUED, State.RUNNING)
        assert lease.token == job.token + 1
        self.became(name, State.RUNNING, lease)
        return lease

    def use(self, lease: Lease | None) -> bool:
        """Whether the model lets this lease write."""
        return lease is not None and self.owners[lease.job.id] is lease

    @rule(lease=leases)
    def renew(self, lease: Lease | None) -> None:
        if lease is not None:
            self.expect(lease, lambda: lease.renew(step=1))

    @rule(lease=leases)
    def commit(self, lease: Lease | None) -> None:
        if lease is None:
            return
        name = lease.job.id
        step = self.steps[name] + 1
        if self.expect(lease, lambda: lease.commit(Commit(step=step, epoch=0, checkpoints=[]))):
            self.steps[name], self.deaths[name] = step, 0

    @rule(lease=consumes(leases))
    def finish(self, lease: Lease | None) -> None:
        if lease is None:
            return
        name = lease.job.id
        if self.expect(lease, lambda: lease.finish(final={"step": 1}, evaluation={"a": 1})):
            last = self.stages[name] is Stage.EVALUATE
            waits = State.HELD if self.wishes[name] else State.QUEUED
            self.became(name, State.SUCCEEDED if last else waits)
            self.stages[name], self.deaths[name] = Stage.EVALUATE, 0

    @rule(lease=consumes(leases), retries=st.integers(0, 2))
    def fail(self, lease: Lease | None, retries: int) -> None:
        if lease is None:
            return
        name, failures = lease.job.id, lease.job.failures + 1
        again = State.HELD if self.wishes[name] else State.QUEUED
        if self.expect(lease, lambda: lease.fail("its fault", retries=retries)):
            self.became(name, again if failures <= retries else State.FAILED)
            self.deaths[name] = 0

    @rule(lease=consumes(leases))
    def release(self, lease: Lease | None) -> None:
        if lease is not None and self.expect(lease, lambda: lease.release("notice")):
            name = lease.job.id
            self.became(name, State.HELD if self.wishes[name] else State.QUEUED)

    def expect(self, lease: Lease, write: object) -> bool:
        allowed = self.use(lease)
        try:
            write()  # type: ignore[operator]
        except LeaseLostError:
            assert not allowed
            return False
        assert allowed
        return True

    @rule(name=NAMES, change=st.sampled_from(["cancel", "hold", "unhold", "retry", "evaluate"]))
    def user(self, name: str, change: str) -> None:
        if name not in self.states:
            return
        allowed: dict[str, tuple[set[State], State]] = {
            "cancel": (set(State) - {State.SUCCEEDED}, State.CANCELLED),
            "hold": ({State.QUEUED}, State.HELD),
            "unhold": ({State.HELD}, State.QUEUED),
            "retry": ({State.FAILED, State.CANCELLED}, State.QUEUED),
        }
        if self.states[name] is State.RUNNING and change in ("hold", "unhold"):
            self.wish(name, change)
            return
        if self.stages[name] is Stage.EVALUATE:  # which has results already
            done = self.queue.job(name).kind == "cancel"
            allowed["cancel"] = (
                set(State) if done else set(State) - {State.SUCCEEDED},
                State.SUCCEEDED,
            )
        allowed["evaluate"] = (
            {State.SUCCEEDED, State.FAILED, State.CANCELLED}
            if self.stages[name] is Stage.EVALUATE
            else set(),
            State.QUEUED,
        )
        before, after = allowed[change]
        try:
            getattr(self.queue, change)(name)
        except ConflictError:
            assert self.states[name] not in before
        else:
            assert self.states[name] in before
            self.became(name, after)
            if change != "cancel" and change != "hold":
                self.deaths[name] = 0

    def wish(self, name: str, change: str) -> None:
        """A running job stays its owner's, who does what is asked."""
        try:
            getattr(self.queue, change)(name)
        except ConflictError:
            assert self.wishes[name] == (change == "hold")
        else:
            assert self.wishes[name] == (change == "unhold")
            self.wishes[name] = change == "hold"

    @invariant()
    def queue_and_model_agree(self) -> None:
        jobs = {job.id: job for job in self.queue.jobs()}
        assert sorted(jobs) == sorted(self.states) == self.queue.ids()
        for name, job in jobs.items():
            assert (job.state, job.stage, job.step) == (
                self.states[name],
                self.stages[name],
                self.steps[name],
            )
            self.check_log(name, job)

    def check_log(self, name: str, job: Job) -> None:
        """The log has no gap, and every record follows the one before."""
        keys = self.store.list(f"jobs/{name}/log/")
        assert keys == [log.slot(f"jobs/{name}", number) for number in range(job.number + 1)]


QueueMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestQueue = QueueMachine.TestCase
