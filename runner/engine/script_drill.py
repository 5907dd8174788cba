"""A fire drill for any program: its training undisturbed and killed, on this machine.

The program runs as it always does, but under `RUNNER_DRILL` (see `runner.training.trace`): its
`BackupAndRestore` keeps away from its own place, and writes down what each step consisted of.
The killed run begins with the first checkpoint of the undisturbed one, so that both are one
training, also where the program sets no seed. Nothing is printed here; what happens is yielded.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random

from runner.engine.drill import moments
from runner.engine.preemption import StopRequest
from runner.engine.traces import Reached, Trace, compare, read
from runner.errors import PreemptedError, SpecError, TrainingError
from runner.training.orders import VARIABLE, Orders, trace_file

POLL_SECONDS = 0.05
_LAST_LINES = 15
_PREFIX, _TEMPORARY = "runner-drill-", "tmp"
_MOST_FILES = 10_000  #: of a folder; a larger one is not looked through
_SHOWN = 4  #: names of files


@dataclass(frozen=True, kw_only=True)
class Said:
    """What happens, for people."""

    text: str
    lasting: bool = True  #: else it is so just now


@dataclass(frozen=True, kw_only=True)
class Death:
    """One SIGKILL."""

    number: int
    fit: int  #: which of the program's trainings
    step: int  #: the last that was written down
    resumed_at: int  #: the step after which the next attempt went on


@dataclass(frozen=True, kw_only=True)
class ScriptVerdict:
    """What the drill showed."""

    differences: tuple[str, ...]  #: none: identical, bit for bit
    kills: tuple[Death, ...]
    planned: int
    steps: int  #: of the undisturbed training that were compared
    batches_seen: bool

    @property
    def passed(self) -> bool:
        """Whether the program was killed and nothing differs."""
        return not self.differences and bool(self.kills)


Event = Said | ScriptVerdict


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """How one process of the program ended."""

    trace: Trace
    code: int
    last_words: str
    seconds: float  #: from its first line on


class ScriptDrill:
    """One drill of a program: two runs, the second in as many attempts as it takes.

    Args:
        program: the command and its arguments.
        kills: how often to kill.
        orders: how much of it is drilled; the rest of them is the drill's own.
        ignored: patterns of names that may differ.
        random: decides when to kill.
        stop: asked now and then.
    """

    def __init__(
        self,
        program: Sequence[str],
        *,
        kills: int,
        orders: Orders,
        ignored: Sequence[str],
        random: Random,
        stop: StopRequest,
    ) -> None:
        self._program = list(program)
        self._kills = kills
        self._orders = orders
        self._ignored = ignored
        self._random = random
        self._stop = stop
        self.folder = Path()  #: traces, outputs and checkpoints; it stays if something differs

    def run(self) -> Iterator[Event]:
        """Do it all; ends with a ScriptVerdict.

        Raises:
            SpecError: there is no such program, or it trains nothing that could be resumed.
            TrainingError: it fails undisturbed.
            PreemptedError: asked to stop.
        """
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        passed = True
        try:
            verdict = yield from self._both()
            passed = verdict.passed
            yield verdict
        finally:
            if passed:  # or failed before there was anything to look at
                shutil.rmtree(self.folder, ignore_errors=True)

    def _both(self) -> Generator[Event, None, ScriptVerdict]:
        for name in ("undisturbed", "killed"):
            (self.folder / name / _TEMPORARY).mkdir(parents=True)
        start = str(self.folder / "killed")
        yield Said(text="undisturbed: nobody kills it")
        files = _files()
        whole = yield from self._attempt("undisturbed", replace(self._orders, start=start))
        self._check(whole)
        left = sorted(name for name, _ in _files() - files)
        steps = list(dict.fromkeys((line.fit, line.step) for line in whole.trace.made if line.step))
        yield Said(text=f"undisturbed: {len(steps)} steps in {whole.seconds:.1f} s")
        seconds = whole.trace.step_seconds * len(steps)
        plan = moments(
            self._random, self._kills, steps=len(steps), training=seconds, evaluation=0.0
        )
        targets = [(*steps[int(moment.step)], moment.then_seconds) for moment in plan]
        attempts = yield from self._killed(targets)
        differences = compare(
            whole.trace,
            [one.trace for one in attempts],
            ignored=self._ignored,
            ended=not attempts[-1].code,
        )
        return ScriptVerdict(
            differences=(
                *_failure(attempts[-1], len(attempts)),
                *differences,
                *self._found(left, whole, attempts[0]),
            ),
            kills=_deaths(attempts),
            planned=self._kills,
            steps=len(steps),
            batches_seen=any(line.batches for line in whole.trace.made),
        )

    def _found(self, left: Sequence[str], whole: _Ended, first: _Ended) -> list[str]:
        """Say what may be the reason if the killed run was another one before it was killed."""
        ended = not first.code and not first.trace.killed
        if not left or not compare(whole.trace, [first.trace], ignored=self._ignored, ended=ended):
            return []
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        return [
            "it differs before it is killed. It began with what the undisturbed run had left in "
            f"this folder: {', '.join(left[:_SHOWN])}{more}. If the program reads that, let it "
            "keep it below $TMPDIR, which the drill gives each of the two runs anew."
        ]

    def _killed(
        self, targets: Sequence[tuple[int, int, float]]
    ) -> Generator[Event, None, list[_Ended]]:
        attempts: list[_Ended] = []
        for number, target in enumerate([*targets, None], start=1):
            orders = replace(self._orders, attempt=number, kill=target)
            last = yield from self._attempt("killed", orders)
            attempts.append(last)
            if not last.trace.killed:
                break
            yield Said(text=f"kill {number} of {self._kills}: after step {last.trace.reached}")
        return attempts

    def _check(self, whole: _Ended) -> None:
        if whole.code:
            raise TrainingError(
                f"{self._program[0]} ended with exit code {whole.code}, undisturbed. "
                f"{whole.last_words}"
            )
        if not whole.trace.made:
            raise SpecError(
                f"{' '.join(self._program)} made no step with a runner.BackupAndRestore (Keras's "
                "own can't be drilled): give fit callbacks=[runner.BackupAndRestore(FOLDER)]. "
                f"{whole.last_words}"
            )

    # ------------------------------------------------------------------ one process

    def _attempt(self, run: str, orders: Orders) -> Generator[Event, None, _Ended]:
        folder = self.folder / run
        orders.write(folder)
        trace = trace_file(folder, orders.attempt)
        output = folder / f"output-{orders.attempt}.txt"
        process = self._start(folder, output)
        began, reached = time.monotonic(), Reached(trace)
        try:
            while process.poll() is None:
                if self._stop.reason is not None:
                    raise PreemptedError(f"the drill was stopped ({self._stop.reason}).")
                step = reached.step()
                if not step:
                    began = time.monotonic()
                attempt = f", attempt {orders.attempt}" if run == "killed" else ""
                yield Said(text=f"{run}{attempt}: step {step}", lasting=False)
                time.sleep(POLL_SECONDS)
        finally:
            _end(process)
        return _Ended(
            trace=read(trace),
            code=process.returncode,
            last_words=_last_words(output),
            seconds=time.monotonic() - began,
        )

    def _start(self, folder: Path, output: Path) -> "subprocess.Popen[bytes]":
        try:
            with output.open("wb") as said:
                return subprocess.Popen(  # noqa: S603 - what the user asks for
                    self._program,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    env={
                        **os.environ,
                        VARIABLE: str(folder),
                        "TMPDIR": str(folder / _TEMPORARY),  # whoever is killed leaves things there
                    },
                    start_new_session=True,  # ends with all that it started
                )
        except OSError as error:
            raise SpecError(f"{self._program[0]!r} can't be run: {error.strerror}.") from None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what it has left behind."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _files() -> set[tuple[str, tuple[int, int]]]:
    """Return the files of this folder, with what changes when they are written."""
    found: set[tuple[str, tuple[int, int]]] = set()
    for parent, folders, names in os.walk("."):
        folders[:] = [name for name in folders if not name.startswith((".", "__", _PREFIX))]
        for name in names:
            with suppress(OSError):
                path = Path(parent, name)
                about = path.stat()
                found.add((str(path), (about.st_mtime_ns, about.st_size)))
        if len(found) > _MOST_FILES:
            return set()
    return found


def _last_words(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines()
    return "It said:\n" + "\n".join(lines[-_LAST_LINES:]) if lines else "It said nothing."


def _deaths(attempts: Sequence[_Ended]) -> tuple[Death, ...]:
    return tuple(
        Death(
            number=number,
            fit=dead.trace.lines[-1].fit,
            step=dead.trace.reached,
            resumed_at=following.trace.resumed_at,
        )
        for number, (dead, following) in enumerate(pairwise(attempts), start=1)
    )


def _failure(last: _Ended, number: int) -> list[str]:
    if not last.code:
        return []
    began = f"attempt {number}, that went on after step {last.trace.resumed_at},"
    return [f"{began} failed with exit code {last.code}. {last.last_words}"]
