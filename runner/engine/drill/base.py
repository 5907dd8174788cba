"""What every drill does: train undisturbed, train again with kills, compare.

A subclass knows how to train once undisturbed, how to make one attempt of the killed training,
and what to compare. Its processes are real ones, and their deaths are real SIGKILLs.
"""

import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from runner.engine.preemption import StopRequest
from runner.errors import PreemptedError, SpecError

PREFIX = "runner-drill-"  #: of the folders of drills
SETTLE_SECONDS = 1.5  #: a kill falls up to this long after its step was seen
_EARLY = 0.7  # of an evaluation's seconds: its beginning is seen late, and it must not be over
_LAST_LINES = 15


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a drill is asked to do.

    Args:
        kills: how often the second training is killed.
        random: decides when.
        stop: asked now and then.
        note: gets lines for people that stay.
        now: gets what happens at the moment.
    """

    kills: int
    random: Random = field(default_factory=Random)
    stop: StopRequest = field(default_factory=StopRequest)
    note: Callable[[str], None] = lambda _: None
    now: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the undisturbed training went."""

    steps: int
    seconds: float  #: that the steps took
    evaluation_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When to kill: some seconds after a step was seen, or after the evaluation began."""

    step: float  #: infinite: in the evaluation
    then_seconds: float


@dataclass(frozen=True, kw_only=True)
class Verdict(ABC):
    """What a drill showed."""

    differences: tuple[str, ...]  #: none: identical, bit for bit
    planned: int  #: kills

    @property
    @abstractmethod
    def rows(self) -> Sequence[tuple[str, ...]]:
        """A table for people: its header, then one row for each kill."""

    @property
    @abstractmethod
    def compared(self) -> str:
        """What was compared, for people."""

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        differences = list(self.differences)
        return {"passed": self.passed, "differences": differences, "planned": self.planned}

    @property
    def passed(self) -> bool:
        """Whether the training was killed and nothing differs."""
        return not self.differences and len(self.rows) > 1

    @property
    def lines(self) -> list[str]:
        """The result for people: what is the same, what differs, or why nothing is known."""
        kills = len(self.rows) - 1
        times = _killed(kills)
        if kills < self.planned:
            times += f" ({self.planned} were planned; it ended before)"
        if self.differences:
            when = f"after being {times}" if kills else "without being killed"
            return [f"DIFFERENT {when}:", *(f"  {one}" for one in self.differences)]
        if not kills:
            return ["NOTHING PROVEN: the training ended before a kill. Let it make more steps."]
        return [f"IDENTICAL, {times}: {self.compared}"]


class Drill(ABC):
    """One drill.

    Args:
        task: what it is asked to do.
        undisturbed: the name of the first training, for people.
        killed: the name of the second one.
    """

    def __init__(self, task: Task, *, undisturbed: str, killed: str) -> None:
        self.task = task
        self.undisturbed = undisturbed
        self.killed = killed
        self.folder = Path()  #: of its files; it stays if something differs

    def run(self) -> Verdict:
        """Do it all.

        Raises:
            SpecError: there is nothing to train.
            TrainingError: the training fails undisturbed.
            PreemptedError: asked to stop.
            StoreError: the bucket is away, or a worker elsewhere took the job.
        """
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        remove = True
        try:
            self.task.note(f"{self.undisturbed}: nobody kills it")
            course = self.train_undisturbed()
            self.task.note(
                f"{self.undisturbed}: {course.steps} compared steps in {course.seconds:.1f} s"
            )
            self.task.note(f"{self.killed}: to be {_killed(self.task.kills)}")
            for number, moment in enumerate([*moments(self.task, course), None], start=1):
                if not self.attempt(number, moment):
                    break
            verdict = self.verdict()
            remove = verdict.passed
            return verdict
        finally:
            if remove:
                shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def train_undisturbed(self) -> Course:
        """Train to the end."""

    @abstractmethod
    def attempt(self, number: int, moment: Moment | None) -> bool:
        """Train until killed at a moment, or to the end; whether it was killed."""

    @abstractmethod
    def verdict(self) -> Verdict:
        """Compare both trainings."""

    # ------------------------------------------------------------------ processes

    @contextmanager
    def process(
        self, command: Sequence[str], environment: Mapping[str, str], output: Path
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a process in here; at the end it and all that it has started are killed."""
        try:
            with output.open("ab") as file:
                process = subprocess.Popen(  # noqa: S603 - what the user asks for
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
        except OSError as error:
            raise SpecError(f"{command[0]!r} can't be run: {error.strerror}.") from None
        try:
            yield process
        finally:
            kill(process)

    def pause(self, seconds: float) -> None:
        """Wait. Raises PreemptedError when asked to stop."""
        end = time.monotonic() + seconds
        while True:
            if self.task.stop.reason is not None:
                raise PreemptedError(f"the drill was stopped ({self.task.stop.reason}).")
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))


def moments(task: Task, course: Course) -> list[Moment]:
    """Return when to kill: at random, but once in each of equal parts of the training.

    Of two kills or more, the last falls into the evaluation, if there is one.

    >>> task = Task(kills=3, random=Random(1))
    >>> [round(moment.step) for moment in moments(task, Course(steps=90, seconds=9))]
    [4, 53, 75]
    """
    random, late = task.random, int(course.evaluation_seconds > 0 and task.kills > 1)
    parts = task.kills - late
    longest = min(SETTLE_SECONDS, course.seconds / parts / 2)
    found = [
        Moment(
            step=(part + random.random()) / parts * course.steps,
            then_seconds=random.random() * longest,
        )
        for part in range(parts)
    ]
    seconds = random.random() * _EARLY * course.evaluation_seconds
    return found + [Moment(step=math.inf, then_seconds=seconds)] * late


def kill(process: "subprocess.Popen[bytes]") -> bool:
    """End a process and what it has left behind; False if it had ended by itself."""
    lived = process.poll() is None
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    return lived


def _killed(kills: int) -> str:
    return "killed once" if kills == 1 else f"killed {kills} times"


def last_words(output: Path) -> str:
    """Return the end of what a process wrote, as a sentence."""
    lines = output.read_text(errors="replace").strip().splitlines()
    return "It said:\n" + "\n".join(lines[-_LAST_LINES:]) if lines else "It said nothing."
