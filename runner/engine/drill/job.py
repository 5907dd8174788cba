"""A fire drill of a job: on the user's own machine and bucket.

Both trainings are ordinary jobs, worked on by ordinary `runner resume` processes, one after the
other. All that is known of the workers is read from the bucket: the job's log and heartbeats, as
any other machine would see them.

The jobs of a drill end finished or cancelled. Their records stay, as every job's do.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runner.engine.drill.base import Course, Drill, Moment, Task, Verdict, kill, last_words
from runner.engine.outcome import Outcome, differences, outcome
from runner.errors import ConflictError, StoreError, TrainingError
from runner.exit import Exit
from runner.queue.job import Job, Stage, State
from runner.queue.queue import Queue
from runner.spec import JobSpec

#: what is trained if no spec is given: seconds of steps, and everything that can go wrong in it
SPEC: dict[str, Any] = {
    "name": "drill",
    "description": "A small network on handwritten digits, for fire drills.",
    "seed": 11,
    "data": {"name": "digits"},
    "augmentation": {"flip": None, "rotation": 0.05, "zoom": 0.1},
    "model": {"name": "myinception", "arguments": {"blocks": [1, 0, 0], "width": 0.25}},
    "training": {
        "epochs": 12,
        "batch_size": 32,
        "early_stopping": {"monitor": "val_top_1", "patience": 6},
        "reduce_lr_on_plateau": {"monitor": "val_loss", "patience": 2},
    },
    "checkpoint": {"every": "2s", "best": {"monitor": "val_top_1"}},
}
POLL_SECONDS = 0.25  #: between two looks at the bucket
_DURING = {Stage.TRAIN: "training", Stage.EVALUATE: "evaluation"}


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One look at a job, through its records and its worker's heartbeat."""

    job: Job
    step: int  #: optimizer updates, committed or not, as far as the bucket tells
    evaluated: int  #: steps of the evaluation done

    @property
    def phase(self) -> str:
        """What the job is doing, for people."""
        if self.job.state is State.SUCCEEDED:
            return "done"
        if self.job.stage is Stage.EVALUATE:
            return "evaluation"
        return "training" if self.step else "start"

    def has_come(self, moment: Moment) -> bool:
        """Whether it is time to kill, but for the seconds."""
        if self.job.state is not State.RUNNING:
            return False  # between two stages: soon
        return self.job.stage is Stage.EVALUATE or self.step >= moment.step


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One SIGKILL, and what it cost."""

    stage: Stage
    step: int  #: done when it fell, by the last heartbeat
    committed: int  #: the step that the next attempt could begin with
    token: int  #: of the claim that died
    at: float  #: by the monotonic clock
    recovery_seconds: float | None = None  #: to the first new step; None until then

    def to_json(self, number: int) -> dict[str, Any]:
        """Return it for scripts and for tables."""
        return {
            "kill": number,
            "stage": self.stage.value,
            "step": self.step,
            "committed": self.committed,
            "lost_steps": self.step - self.committed,
            "recovery_seconds": self.recovery_seconds,
        }

    def is_over(self, sight: Sight) -> bool:
        """Whether a later attempt has done something new."""
        if sight.job.state is State.SUCCEEDED or sight.job.stage is not self.stage:
            return True
        new = sight.evaluated if self.stage is Stage.EVALUATE else sight.step - self.committed
        return sight.job.token > self.token and new > 0


@dataclass(frozen=True, kw_only=True)
class JobVerdict(Verdict):
    """What the drill of a job showed."""

    kills: tuple[Kill, ...]
    undisturbed: Outcome
    killed: Outcome

    @property
    def rows(self) -> Sequence[tuple[str, ...]]:
        """Each kill, what it cost, and how long the recovery took."""
        rows = [("KILL", "DURING", "AT STEP", "LOST STEPS", "RECOVERY")]
        for number, one in enumerate(self.kills, start=1):
            lost, took = one.step - one.committed, f"{one.recovery_seconds or 0:.1f} s"
            rows.append((str(number), _DURING[one.stage], str(one.step), str(lost), took))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            **super().to_json(),
            "identical": not self.differences,
            "kills": [kill.to_json(number) for number, kill in enumerate(self.kills, start=1)],
            "undisturbed": asdict(self.undisturbed),
            "killed": asdict(self.killed),
        }

    @property
    def compared(self) -> str:
        """The final state, its digest, and the evaluation."""
        same = f"final digest {self.killed.digest[:16]} at step {self.killed.step}, History"
        return same + (", evaluation" if self.killed.evaluation else "")


def resume_command(job_id: str, _killed: int) -> list[str]:
    """Return how a worker for one job is started."""
    return [sys.executable, "-P", "-m", "runner", "resume", job_id]


class JobDrill(Drill):
    """The drill of a job.

    Args:
        queue: where the jobs are submitted.
        spec: what they train; its name is replaced.
        task: what the drill is asked to do.
        environment: what a worker process needs to find the same store.
        nonce: part of the jobs' names, so that they are nobody else's.
        command: starts a worker, given a job's id and how many were killed before.
    """

    def __init__(
        self,
        queue: Queue,
        spec: JobSpec,
        task: Task,
        *,
        environment: Mapping[str, str],
        nonce: str,
        command: Callable[[str, int], Sequence[str]] = resume_command,
    ) -> None:
        names = (f"drill-{nonce}-{kind}" for kind in ("undisturbed", "killed"))
        super().__init__(task, undisturbed=next(names), killed=next(names))
        self._queue = queue
        self._spec = spec
        self._environment = {**environment, "PYTHONPATH": _python_path()}
        self._command = command
        self._kills: list[Kill] = []
        self.left: dict[str, str] = {}  #: after run(): what became of the jobs

    def train_undisturbed(self) -> Course:
        """Let one job be trained and evaluated."""
        self._submit(self.undisturbed)
        seen_at: dict[str, float] = {}
        self._work(self.undisturbed, None, seen_at)
        evaluation = seen_at.get("evaluation", seen_at["done"])
        return Course(
            steps=self._queue.job(self.undisturbed).step,
            seconds=evaluation - seen_at.get("training", evaluation),
            evaluation_seconds=seen_at["done"] - evaluation,
        )

    def attempt(self, number: int, moment: Moment | None) -> bool:
        """Let a worker train the other job until it is killed, or to the end."""
        if number == 1:
            self._submit(self.killed)
        return self._work(self.killed, moment, {})

    def verdict(self) -> JobVerdict:
        """Compare what both jobs have left in the store."""
        one, other = (
            outcome(self._queue.store, self._queue.job(name))
            for name in (self.undisturbed, self.killed)
        )
        return JobVerdict(
            differences=tuple(differences(other, one)),
            planned=self.task.kills,
            kills=tuple(self._kills),
            undisturbed=one,
            killed=other,
        )

    def run(self) -> Verdict:
        """Do it all, and leave no job that a worker would take up."""
        try:
            return super().run()
        finally:
            self._cancel()

    def _cancel(self) -> None:
        for job_id in self.left:
            try:
                job = self._queue.job(job_id)
                if job.state is not State.SUCCEEDED:
                    job = self._queue.cancel(job_id)
                self.left[job_id] = job.state.value
            except (StoreError, ConflictError) as error:
                self.left[job_id] = f"not cancelled: {error}"

    def _submit(self, job_id: str) -> None:
        # the drill's own kills must not make the job look like one that kills its workers
        limits = self._spec.limits.model_copy(update={"deaths": 1_000_000})
        spec = self._spec.model_copy(update={"name": job_id, "limits": limits})
        self._queue.submit(job_id, spec.effective())
        self.left[job_id] = "unknown"

    # ------------------------------------------------------------------ one worker

    def _work(self, job_id: str, moment: Moment | None, seen_at: dict[str, float]) -> bool:
        """Let a worker work on a job until it is killed, or done; whether it was killed.

        Args:
            job_id: of the job.
            moment: when to kill it; None: never.
            seen_at: gets the time at which each phase was seen first.
        """
        output = self.folder / f"{job_id}.txt"
        command = self._command(job_id, len(self._kills))
        with self.process(command, self._environment, output) as process:
            while True:
                over = process.poll() is not None  # asked before the look, which so misses nothing
                sight = self._look(job_id)
                seen_at.setdefault(sight.phase, time.monotonic())
                self.task.now(f"{job_id}: {sight.phase}, step {sight.step}")
                recovered = self._note_recovery(sight)
                if over:
                    self._check(sight.job, process.returncode, output)
                    return False
                if moment and recovered and sight.has_come(moment):
                    self.pause(moment.then_seconds)
                    if kill(process) and self._note_kill(job_id):
                        return True
                    moment = None  # it was done already
                self.pause(POLL_SECONDS)

    def _look(self, job_id: str) -> Sight:
        """See a job as any other machine would."""
        job = self._queue.job(job_id)
        beat = self._queue.heartbeat(job)
        details = beat.details if beat else {}
        done = details.get("step") if details.get("stage") == "evaluate" else 0
        return Sight(
            job=job,
            step=max(job.step, beat.step if beat else 0),
            evaluated=done if isinstance(done, int) else 0,
        )

    def _note_kill(self, job_id: str) -> bool:
        """Note what a kill cost, by what the store holds; False if the job was done already."""
        at, sight = time.monotonic(), self._look(job_id)
        if sight.job.state is State.SUCCEEDED:
            return False
        job, kills = sight.job, self._kills
        kills.append(
            Kill(stage=job.stage, step=sight.step, committed=job.step, token=job.token, at=at)
        )
        self.task.note(
            f"kill {len(kills)} of {self.task.kills}: during the {_DURING[job.stage]} at step "
            f"{sight.step}, {sight.step - job.step} steps lost"
        )
        return True

    def _note_recovery(self, sight: Sight) -> bool:
        """Note how long the last kill's recovery took, once it is over; whether it is."""
        if self._kills and (last := self._kills[-1]).recovery_seconds is None:
            if not last.is_over(sight):
                return False
            seconds = time.monotonic() - last.at
            self._kills[-1] = replace(last, recovery_seconds=seconds)
            self.task.note(f"kill {len(self._kills)}: recovered after {seconds:.1f} s")
        return True

    def _check(self, job: Job, code: int | None, output: Path) -> None:
        """Raise why a job is not done although its worker, or itself, has ended."""
        if job.state is State.SUCCEEDED:
            return
        self.pause(0)  # where all of us were asked to stop, that is why it has ended
        if job.ended:
            raise TrainingError(f"{job.id} {job.state.value}: {job.reason}")
        if code == Exit.UNFINISHED:
            raise ConflictError(f"a worker elsewhere has taken {job.id}: stop it, and drill again.")
        kind = StoreError if code == Exit.STORAGE else TrainingError
        words = f"a worker of {job.id} ended with exit code {code}."
        raise kind(f"{words} {last_words(output)}")


def _python_path() -> str:
    """Return PYTHONPATH with the folder of this very code before all else."""
    import runner

    code = str(Path(runner.__file__).parent.parent)
    return os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH"))))
