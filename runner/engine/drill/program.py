"""A fire drill of any program: its training undisturbed and killed, on this machine.

The program runs as it always does, but under `RUNNER_DRILL` (see `runner.training.trace`): its
`BackupAndRestore` keeps away from its own place, and writes down what each step consisted of.
The killed run begins with the first checkpoint of the undisturbed one, so that both are one
training, also where the program sets no seed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from runner.engine.drill.base import Course, Drill, Moment, Task, Verdict, last_words
from runner.engine.drill.traces import Trace, compare, read
from runner.errors import SpecError, TrainingError
from runner.training.orders import VARIABLE, Orders, trace_file

POLL_SECONDS = 0.05
_TEMPORARY = "tmp"


@dataclass(frozen=True, kw_only=True)
class Death:
    """One SIGKILL."""

    number: int
    fit: int  #: which of the program's trainings
    step: int  #: the last that was written down
    resumed_at: int  #: the step after which the next attempt resumed


@dataclass(frozen=True, kw_only=True)
class ProgramVerdict(Verdict):
    """What the drill of a program showed."""

    kills: tuple[Death, ...]
    steps: int  #: of the undisturbed training that were compared
    batches_seen: bool

    @property
    def rows(self) -> Sequence[tuple[str, ...]]:
        """Each kill, and where the next attempt resumed."""
        kills = [(str(one.number), str(one.step), str(one.resumed_at)) for one in self.kills]
        return [("KILL", "AFTER STEP", "RESUMED AFTER STEP"), *kills]

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        kills = [asdict(kill) for kill in self.kills]
        more = {"steps": self.steps, "batches_seen": self.batches_seen}
        return {**super().to_json(), "kills": kills, **more}

    @property
    def compared(self) -> str:
        """All that a trace holds."""
        batches = "batches, " if self.batches_seen else ""
        return f"{batches}variables, History and callbacks of {self.steps} steps"

    @property
    def lines(self) -> list[str]:
        """The result for people."""
        return [*super().lines, *([] if self.batches_seen else ["  (its batches can't be seen)"])]


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """How one process of the program ended."""

    trace: Trace
    code: int
    last_words: str


class ProgramDrill(Drill):
    """The drill of a program.

    Args:
        program: the command and its arguments.
        task: what the drill is asked to do.
        orders: how much of the program is drilled; the rest of them is the drill's own.
        ignored: patterns of names that may differ.
    """

    def __init__(
        self, program: Sequence[str], task: Task, *, orders: Orders, ignored: Sequence[str]
    ) -> None:
        super().__init__(task, undisturbed="undisturbed", killed="killed")
        self._program = list(program)
        self._orders = orders
        self._ignored = ignored
        self._attempts: list[_Ended] = []

    def train_undisturbed(self) -> Course:
        """Run the program once."""
        for name in (self.undisturbed, self.killed):
            (self.folder / name / _TEMPORARY).mkdir(parents=True)
        start = str(self.folder / self.killed)
        self._whole = whole = self._run(self.undisturbed, replace(self._orders, start=start))
        if whole.code:
            raise TrainingError(
                f"{self._program[0]} ended with exit code {whole.code}, undisturbed. "
                f"{whole.last_words}"
            )
        made = whole.trace.made
        if not made:
            raise SpecError(
                f"{' '.join(self._program)} made no step with a runner.BackupAndRestore (Keras's "
                "own can't be drilled): give fit callbacks=[runner.BackupAndRestore(FOLDER)]. "
                f"{whole.last_words}"
            )
        self._steps = list(dict.fromkeys((line.fit, line.step) for line in made if line.step))
        return Course(steps=len(self._steps), seconds=made[-1].at - made[0].at)

    def attempt(self, number: int, moment: Moment | None) -> bool:
        """Run the program until it is killed, by itself and on order, or to its end."""
        kill = (*self._steps[int(moment.step)], moment.then_seconds) if moment else None
        last = self._run(self.killed, replace(self._orders, attempt=number, kill=kill))
        self._attempts.append(last)
        if last.trace.killed:
            reached = last.trace.reached
            self.task.note(f"kill {number} of {self.task.kills}: after step {reached}")
        return last.trace.killed

    def verdict(self) -> ProgramVerdict:
        """Compare the traces of both runs."""
        whole, attempts = self._whole.trace, self._attempts
        return ProgramVerdict(
            differences=(*self._failure(), *self._compare(attempts), *self._own_fault()),
            kills=tuple(
                Death(
                    number=number,
                    fit=dead.trace.lines[-1].fit,
                    step=dead.trace.reached,
                    resumed_at=following.trace.resumed_at,
                )
                for number, (dead, following) in enumerate(pairwise(attempts), start=1)
            ),
            planned=self.task.kills,
            steps=len(self._steps),
            batches_seen=any(line.batches for line in whole.made),
        )

    def _compare(self, attempts: Sequence[_Ended]) -> list[str]:
        ended = not attempts[-1].code and not attempts[-1].trace.killed
        traces = [one.trace for one in attempts]
        return compare(self._whole.trace, traces, ignored=self._ignored, ended=ended)

    def _failure(self) -> list[str]:
        last = self._attempts[-1]
        if not last.code:
            return []
        resumed = f"attempt {len(self._attempts)}, that went on after step {last.trace.resumed_at},"
        return [f"{resumed} failed with exit code {last.code}. {last.last_words}"]

    def _own_fault(self) -> list[str]:
        """Say what may be the reason if the killed run was another one before it was killed."""
        if not self._compare(self._attempts[:1]):
            return []
        return [
            "it differs before it is killed, so this is no fault of a resume. If the program reads "
            "a file that it wrote the first time, let it keep it below $TMPDIR, which the drill "
            "gives each of the two runs anew."
        ]

    def _run(self, run: str, orders: Orders) -> _Ended:
        """Run the program once, as ordered, to its end."""
        folder = self.folder / run
        orders.write(folder)
        output = folder / f"output-{orders.attempt}.txt"
        # whoever is killed leaves things in the folder for temporary files
        environment = {VARIABLE: str(folder), "TMPDIR": str(folder / _TEMPORARY)}
        self.task.now(f"{run}, attempt {orders.attempt}")
        with self.process(self._program, environment, output) as process:
            while process.poll() is None:
                self.pause(POLL_SECONDS)
        return _Ended(
            trace=read(trace_file(folder, orders.attempt)),
            code=process.returncode,
            last_words=last_words(output),
        )
