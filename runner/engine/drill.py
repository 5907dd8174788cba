"""A fire drill: the same training undisturbed and killed, on the user's own machine and bucket.

Both are ordinary jobs, worked on by ordinary `runner resume` processes, one after the other. The
killed one gets real SIGKILLs at random moments, spread over its training and its evaluation. All
that is known of the workers is read from the bucket: the job's log and heartbeats, as any other
machine would see them. Nothing is printed here; what happens is yielded.

The jobs of a drill end finished or cancelled. Their records stay, as every job's do.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import IO, Any

from runner.engine.outcome import Outcome, differences, outcome
from runner.engine.preemption import StopRequest
from runner.errors import ConflictError, PreemptedError, StoreError, TrainingError
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
SETTLE_SECONDS = 1.5  #: a kill falls up to this long after its step was seen
MOST_SILENCE = 10.0  #: seconds after a heartbeat for which the speed that it told is believed
GOODBYE_SECONDS = 30.0  #: for a worker to save and let go, once asked to
MOST_EVALUATION = 0.25  #: of all moments at most, however short the training is
EARLY = 0.7  # of an evaluation's seconds: it is seen late, and must not be over
_ELSEWHERE, _STORAGE = 4, 6  # exit codes of a worker: another has the job; the bucket is away


# ---------------------------------------------------------------------- what happens, as data


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One look at a job, through its records and its worker's heartbeat."""

    job: Job
    step: int  #: optimizer updates, committed or not, as far as the bucket tells
    beat_step: int  #: of the last heartbeat alone
    speed: float  #: optimizer updates a second, 0 while unknown
    beat_at: datetime | None  #: when the heartbeat was sent
    steps: int  #: of the whole training, 0 while unknown
    evaluated: int  #: steps of the evaluation done

    def step_at(self, now: datetime) -> int:
        """Return the step that is done by now, if it goes on as fast as before."""
        if self.beat_at is None or self.evaluating:
            return self.step
        silent = min((now - self.beat_at).total_seconds(), MOST_SILENCE)
        guess = self.beat_step + round(self.speed * silent)
        return max(self.step, min(guess, self.steps or guess))

    @property
    def evaluating(self) -> bool:
        """Whether the training is over."""
        return self.job.stage is Stage.EVALUATE


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One SIGKILL, and what it cost."""

    number: int
    stage: str  #: "train" or "evaluate"
    step: int  #: done when it fell: from the last heartbeat, and the speed that it told
    committed: int  #: the step that the next attempt could begin with
    token: int  #: of the claim that died
    at: float  #: by the monotonic clock
    recovery_seconds: float | None = None  #: to the first new step; None until then

    @property
    def lost_steps(self) -> int:
        """Steps that had to be repeated."""
        return self.step - self.committed


@dataclass(frozen=True, kw_only=True)
class Began:
    """A job was stored and gets its first worker."""

    job_id: str
    kills: int  #: planned for it


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A look at the job that is worked on."""

    sight: Sight
    seconds: float  #: since it began
    waiting: Kill | None  #: a kill that it has yet to recover from


@dataclass(frozen=True, kw_only=True)
class Killed:
    """A worker was killed; again with its recovery time when that is known."""

    kill: Kill


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job has succeeded."""

    job_id: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the drill showed."""

    differences: tuple[str, ...]  #: none: identical, bit for bit
    kills: tuple[Kill, ...]
    planned: int
    undisturbed: Outcome
    killed: Outcome

    @property
    def passed(self) -> bool:
        """Whether workers were killed (if any were to be) and nothing differs."""
        return not self.differences and (bool(self.kills) or not self.planned)


Event = Began | Seen | Killed | Finished | Verdict


# ---------------------------------------------------------------------- when to kill


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When to kill: some seconds after a step was seen, or after the evaluation began."""

    step: float  #: infinite: in the evaluation
    then_seconds: float

    def has_come(self, sight: Sight) -> bool:
        """Whether it is time, but for the seconds."""
        if sight.job.state is not State.RUNNING:
            return False  # between two stages: soon
        return sight.evaluating or sight.step >= self.step


def moments(
    random: Random, kills: int, *, steps: int, training: float, evaluation: float
) -> list[Moment]:
    """Return when to kill: random, but one in each of equal parts of the job.

    Args:
        random: decides.
        kills: how many.
        steps: of the whole training.
        training: seconds that they take.
        evaluation: seconds of the evaluation.

    >>> [round(moment.step) for moment in moments(Random(1), 3, steps=90, training=9, evaluation=0)]
    [4, 55, 83]
    """
    share = min(MOST_EVALUATION, evaluation / (training + evaluation or 1.0))
    found = []
    for part in range(kills):
        place = (part + random.random()) / kills / (1 - share)  # 1.0: the training's end
        if place < 1:
            wait = random.random() * min(SETTLE_SECONDS, training / kills / 2)
            found.append(Moment(step=place * steps, then_seconds=wait))
        else:
            wait = (place - 1) / (1 / (1 - share) - 1) * evaluation * EARLY
            found.append(Moment(step=math.inf, then_seconds=wait))
    return found


# ---------------------------------------------------------------------- the workers

Start = Callable[[str, int], "subprocess.Popen[bytes]"]  #: job id and how many were killed before


def starter(environment: Mapping[str, str], said: IO[bytes]) -> Start:
    """Return how workers are started: real processes of this very code.

    Args:
        environment: names the store; everything else is inherited.
        said: a file that gets what they print.
    """
    import runner

    code = str(Path(runner.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH"))))

    def start(job_id: str, killed: int) -> "subprocess.Popen[bytes]":  # noqa: ARG001 - see Start
        return subprocess.Popen(  # noqa: S603 - our own interpreter, and a name that we made
            [sys.executable, "-P", "-m", "runner", "resume", job_id],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, **environment, "PYTHONPATH": path},
        )

    return start


class Drill:
    """One drill: two jobs, and the processes that work on them.

    Args:
        queue: where the jobs are submitted.
        spec: what they train; its name is replaced.
        kills: how often the second one is killed.
        environment: what a worker process needs to find the same store.
        stop: asked between two looks.
        random: decides when to kill.
        nonce: part of the jobs' names, so that they are nobody else's.
        start: how a worker is started, unless as the command line would.
    """

    def __init__(
        self,
        queue: Queue,
        spec: JobSpec,
        *,
        kills: int,
        environment: Mapping[str, str],
        stop: StopRequest,
        random: Random,
        nonce: str,
        start: Start | None = None,
    ) -> None:
        self._queue = queue
        self._spec = spec
        self._kills = kills
        self._stop = stop
        self._random = random
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by run()
        self._start = start or starter(environment, self._said)
        self._process: subprocess.Popen[bytes] | None = None
        self.undisturbed = f"drill-{nonce}-undisturbed"
        self.killed = f"drill-{nonce}-killed"
        self.left: dict[str, str] = {}  #: after run(): what became of the jobs

    def run(self) -> Iterator[Event]:
        """Do it all; ends with a Verdict.

        Raises:
            PreemptedError: asked to stop.
            TrainingError: a job failed, or its worker ended otherwise.
            ConflictError: a worker elsewhere took a job.
            StoreError: the bucket is away.
        """
        try:
            stopwatch = _Stopwatch()
            for event in self._work(self.undisturbed, []):
                stopwatch.note(event)
                yield event
            plan = moments(
                self._random,
                self._kills,
                steps=self._queue.job(self.undisturbed).step,
                training=stopwatch.training,
                evaluation=stopwatch.evaluation,
            )
            kills: dict[int, Kill] = {}
            for event in self._work(self.killed, plan):
                if isinstance(event, Killed):
                    kills[event.kill.number] = event.kill
                yield event
            yield self._verdict(tuple(kills.values()))
        finally:
            self._tidy()

    def _verdict(self, kills: tuple[Kill, ...]) -> Verdict:
        one, other = (
            outcome(self._queue.store, self._queue.job(name))
            for name in (self.undisturbed, self.killed)
        )
        return Verdict(
            differences=tuple(differences(other, one)),
            kills=kills,
            planned=self._kills,
            undisturbed=one,
            killed=other,
        )

    # ------------------------------------------------------------------ one job to its end

    def _work(self, job_id: str, plan: list[Moment]) -> Iterator[Event]:
        # its own kills are no poison
        limits = self._spec.limits.model_copy(update={"deaths": 1_000_000})
        spec = self._spec.model_copy(update={"name": job_id, "limits": limits})
        self._queue.submit(job_id, spec.effective())
        self.left[job_id] = "unknown"
        yield Began(job_id=job_id, kills=len(plan))
        began = time.monotonic()
        targets, kills = list(plan), 0
        waiting: Kill | None = None
        process = self._process = self._start(job_id, 0)
        while True:
            over = process.poll() is not None  # asked before the look, which so misses nothing
            sight = self.look(job_id)
            if waiting is not None and _goes_on(sight, waiting):
                took = time.monotonic() - waiting.at
                yield Killed(kill=replace(waiting, recovery_seconds=took))
                waiting = None
            if sight.job.state is State.SUCCEEDED:
                break
            self._check(process, sight.job, over=over)
            yield Seen(sight=sight, seconds=time.monotonic() - began, waiting=waiting)
            if waiting is None and targets and targets[0].has_come(sight):
                self._pause(targets.pop(0).then_seconds)
                waiting = self._kill(process, job_id, kills + 1)
                if waiting is not None:
                    kills += 1
                    yield Killed(kill=waiting)
                    process = self._process = self._start(job_id, kills)
            self._pause(POLL_SECONDS)
        process.wait()
        yield Finished(job_id=job_id, seconds=time.monotonic() - began)

    def _kill(self, process: "subprocess.Popen[bytes]", job_id: str, number: int) -> Kill | None:
        """Kill a worker for real; None if it was done already."""
        if process.poll() is not None:
            return None
        process.kill()
        at, now = time.monotonic(), datetime.now(UTC)
        process.wait()
        sight = self.look(job_id)
        if sight.job.state is State.SUCCEEDED:
            return None
        return Kill(
            number=number,
            stage=sight.job.stage.value,
            step=sight.step_at(now),
            committed=sight.job.step,
            token=sight.job.token,
            at=at,
        )

    def look(self, job_id: str) -> Sight:
        """See a job as any other machine would."""
        job = self._queue.job(job_id)
        beat = self._queue.heartbeat(job)
        details = beat.details if beat else {}
        evaluating = details.get("stage") == "evaluate"
        steps, epochs = _count(details.get("steps")), _count(details.get("epochs"))
        return Sight(
            job=job,
            step=max(job.step, beat.step if beat else 0),
            beat_step=beat.step if beat else 0,
            speed=_speed(details) / self._spec.training.batch_size,
            beat_at=beat.sent_at if beat else None,
            steps=0 if evaluating else steps * epochs,
            evaluated=_count(details.get("step")) if evaluating else 0,
        )

    def _check(self, process: "subprocess.Popen[bytes]", job: Job, *, over: bool) -> None:
        if job.state in (State.FAILED, State.CANCELLED):
            raise TrainingError(f"{job.id} {job.state.value}: {job.reason}")
        if not over or self._stop.reason is not None:
            return
        if process.returncode == _ELSEWHERE:
            raise ConflictError(f"a worker elsewhere has taken {job.id}: stop it, and drill again.")
        words = f"a worker of {job.id} ended with exit code {process.returncode}."
        kind = StoreError if process.returncode == _STORAGE else TrainingError
        raise kind(f"{words} {self._last_words()}")

    def _last_words(self) -> str:
        self._said.flush()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self._said.seek(0, os.SEEK_END)
        return "It said:\n" + "\n".join(lines[-5:]) if lines else "It said nothing."

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            if self._stop.reason is not None:
                raise PreemptedError(f"the drill was stopped ({self._stop.reason}).")
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))

    # ------------------------------------------------------------------ whatever ends it

    def _tidy(self) -> None:
        """Leave no process, and no job that a worker would take up."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(GOODBYE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._said.close()
        for job_id in self.left:
            self.left[job_id] = self._settle(job_id)

    def _settle(self, job_id: str) -> str:
        try:
            job = self._queue.job(job_id)
            if job.state is not State.SUCCEEDED:
                job = self._queue.cancel(job_id)
        except (StoreError, ConflictError) as error:
            return f"not cancelled: {error}"
        return job.state.value


@dataclass
class _Stopwatch:
    """How long the parts of the undisturbed job took, in seconds."""

    training: float = 0.0  #: from the first step that was seen
    evaluation: float = 0.0
    _first_step: float | None = None
    _evaluation: float | None = None

    def note(self, event: Event) -> None:
        """Look at what happens."""
        if isinstance(event, Seen):
            if event.sight.step and self._first_step is None:
                self._first_step = event.seconds
            if event.sight.evaluating and self._evaluation is None:
                self._evaluation = event.seconds
        if isinstance(event, Finished):
            trained = event.seconds if self._evaluation is None else self._evaluation
            self.training = trained - (self._first_step or 0.0)
            self.evaluation = event.seconds - trained


def _goes_on(sight: Sight, kill: Kill) -> bool:
    """Whether a later attempt has done something new."""
    if sight.job.state is State.SUCCEEDED or (sight.evaluating and kill.stage == "train"):
        return True
    if sight.job.token <= kill.token:
        return False
    return bool(sight.evaluated) if kill.stage == "evaluate" else sight.step > kill.committed


def _speed(details: Mapping[str, Any]) -> float:
    value = details.get("images_per_second")
    return value if isinstance(value, float) and details.get("stage") == "train" else 0.0


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
