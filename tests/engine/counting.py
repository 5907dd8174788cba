"""A stage that trains by counting: all of the worker without a second of TensorFlow."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from runner.commit import Commit
from runner.engine import running, worker
from runner.engine.preemption import StopRequest
from runner.engine.requirements import Looking, Machine
from runner.engine.stages import Attempt
from runner.engine.worker import Owned, Worker
from runner.errors import PreemptedError
from runner.machine.hardware import Gpu
from runner.queue.job import Job, Stage
from runner.queue.queue import Queue
from runner.training.progress import Progress
from tests.store.memory import MemoryStore

LEASE_SECONDS = 60.0
OnStep = Callable[[Job, int], None]


class Counting:
    """Counts to `steps`, committing each; `on_step` may do anything after a step."""

    def __init__(self, steps: int = 3, on_step: OnStep = lambda _job, _step: None) -> None:
        self.steps = steps
        self.on_step = on_step
        self.ran: list[str] = []  #: the jobs whose trainings were begun, in order

    def __call__(self, attempt: Attempt) -> None:
        if attempt.lease.job.stage is Stage.EVALUATE:
            self.evaluate(attempt)
            return
        step = attempt.lease.job.step
        self.ran.append(attempt.lease.job.id)
        attempt.progressed(self.progress(step))
        while step < self.steps:
            self.leave_if_asked(attempt, step)
            step += 1
            attempt.progressed(self.progress(step))
            self.on_step(attempt.lease.job, step)
            self.commit(attempt, step)
        attempt.lease.finish(final={"step": step, "digest": "d"})

    def evaluate(self, attempt: Attempt) -> None:
        self.leave_if_asked(attempt, attempt.lease.job.step)
        attempt.progressed(Progress(stage="evaluate", step=1, steps=1))
        attempt.lease.finish(evaluation={"top_1": 1.0})

    def leave_if_asked(self, attempt: Attempt, step: int) -> None:
        reason = attempt.should_stop()
        if reason:
            self.commit(attempt, step)
            raise PreemptedError(f"stopped ({reason}); saved at step {step}.")

    def commit(self, attempt: Attempt, step: int) -> None:
        attempt.commit(Commit(step=step, epoch=0, checkpoints=[{"step": step}]))

    def progress(self, step: int) -> Progress:
        return Progress(
            stage="train", epochs=1, step=step, steps=self.steps, global_step=step,
            metrics={"loss": 1.0 / (step + 1)},
        )  # fmt: skip


class Notes:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, job: Job) -> None:
        pass

    def progressed(self, job: Job, progress: Progress) -> None:
        pass

    def ended(self, job: Job) -> None:
        pass

    @property
    def text(self) -> str:
        return "\n".join(self.notes)


class Shop:
    """A store, its queue, and workers that come and go; time is what `sleep` makes of it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.now = 1000.0
        self.store = MemoryStore(clock=lambda: self.now)
        self.queue = Queue(self.store, lease_seconds=LEASE_SECONDS, clock=lambda: self.now)
        self.reporter = Notes()
        self.stop = StopRequest()
        self.left: list[Owned] = []
        self.worker: Worker | None = None

    def submit(self, name: str, **spec: Any) -> Job:
        return self.queue.submit(name, {"name": name, "evaluation": {}, **spec})

    def sleep(self, seconds: float) -> None:
        self.now += 5.0

    def work(self, stage: Callable[[Attempt], None] | None = None, **options: Any) -> Worker:
        """Let a new worker run until nothing is left for it; it stays as `self.worker`."""
        self._patch.setattr(running, "run_stage", stage or Counting())
        self._patch.setattr(worker, "import_keras", options.pop("import_keras", lambda: None))
        leave = options.pop("leave", None)
        if leave is not None:
            around = partial(running.Surroundings, leave=leave)
            self._patch.setattr(worker, "Surroundings", around)
        self.stop = StopRequest()
        owner = options.pop("owner", {"host": "here", "pid": 1})
        sleep = options.pop("sleep", self.sleep)
        until_empty = options.pop("until_empty", True)
        self.worker = Worker(
            self.queue,
            self.store,
            stop=self.stop,
            reporter=self.reporter,
            owner=owner,
            sleep=sleep,
            **options,
        )
        self.left = self.worker.work(until_empty=until_empty)
        return self.worker

    def log(self, name: str) -> str:
        """All that the attempts of a job said."""
        keys = self.store.list(f"jobs/{name}/logs/")
        return "".join((self.store.read(key) or b"").decode() for key in keys)

    def kinds(self, name: str) -> list[str]:
        """The changes in a job's log."""
        from runner.store.log import decode

        keys = self.store.list(f"jobs/{name}/log/")
        return [decode(self.store.read(key) or b"", key)["kind"] for key in keys]


def raising(error: BaseException, times: int = 99) -> Counting:
    """A stage that fails after its second step, so many times."""
    left = times

    def fail(job: Job, step: int) -> None:
        nonlocal left
        if step == 2 and left:
            left -= 1
            raise error

    return Counting(on_step=fail)


class Here(Looking):
    """A machine that is what the test says."""

    def __init__(self, *gigabytes: float, labels: tuple[str, ...] = ()) -> None:
        super().__init__(labels)
        self._cards = tuple(Gpu(name="card", memory_mib=int(g * 1e9 / 2**20)) for g in gigabytes)

    def machine(self) -> Machine:
        return Machine(gpus=self._cards, labels=self._labels)
