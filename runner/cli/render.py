"""What people see: live progress on a terminal, plain lines elsewhere, tables of jobs."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import IO, Any, Self, cast

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from runner.cli.common import say, to_stderr
from runner.engine.pace import Pace
from runner.queue.job import Job, Stage, State
from runner.training.progress import Progress

MANY_LINES = 500
PLAIN_SECONDS = 10.0  #: between plain progress lines
IN_PLACE_SECONDS = 1.0  #: between two writings of a line in place
PLAIN = "RUNNER_PLAIN"  #: set where several workers share a terminal
IN_PLACE = "RUNNER_IN_PLACE"  #: set by `runner.run`, which shows our progress in a notebook


def make_reporter(touched: list[str]) -> "LiveReporter | PlainReporter":
    """Live progress where standard error is a terminal, else plain lines.

    A notebook's `!runner` looks like a terminal and understands only carriage returns.

    Args:
        touched: gets the id of each job that is worked on.
    """
    if os.environ.get(PLAIN):
        return PlainReporter(touched)
    if in_notebook(os.environ):
        return InPlaceReporter(touched)
    console = Console(file=cast(IO[str], _Terminal(sys.stderr)))
    return LiveReporter(console, touched) if console.is_terminal else PlainReporter(touched)


def in_notebook(environ: Mapping[str, str]) -> bool:
    """Whether our output appears in a notebook's cell: `runner.run`, or `!` of ipykernel."""
    shell = "JPY_PARENT_PID" in environ and environ.get("TERM") == "xterm-color"
    return IN_PLACE in environ or shell


def count(number: int, word: str) -> str:
    """Return `1 attempt`, `2 attempts`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`42s`, `3m`, `2h05m`: as long as a person wants to read."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s" if whole < 600 else f"{whole // 60}m"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """The metrics that people steer by, shortest form."""
    shown = [name for name in ("loss", "top_1", "val_loss", "val_top_1") if name in metrics]
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in shown or list(metrics)[:3])


def started_text(job: Job) -> str:
    """The line that opens an attempt."""
    what = "training" if job.stage is Stage.TRAIN else "evaluating"
    if job.stage is Stage.TRAIN and job.checkpoints:
        newest = job.checkpoints[0]
        after = f"after epoch {job.epoch}, " if job.epoch else ""
        what = f"resuming {after}at step {newest.get('step', 0)}"
    tries = f" (attempt {job.tries})" if job.tries > 1 else ""
    return f"{job.id}: {what}{tries}"


def ended_text(job: Job, epochs: int = 0) -> str:
    """The line that closes an attempt; `epochs`: that its training was to have, if known."""
    if job.state is State.SUCCEEDED:
        return f"{job.id}: succeeded{_result(job)}"
    if job.state is State.QUEUED and job.stage is Stage.EVALUATE and job.kind == "finish":
        # an early end of a phase before the last one is not seen here
        ended = "stopped early" if job.epoch < epochs else "ended"
        return (
            f"{job.id}: training {ended} after {count(job.epoch, 'epoch')},"
            f" at step {job.step}; evaluation queued"
        )
    if job.state is State.QUEUED:
        return f"{job.id}: queued again at step {job.step}: {job.reason}"
    if job.state is State.CANCELLED:
        return f"{job.id}: {job.reason or 'cancelled'}"
    why = f": {job.reason}" if job.reason else ""
    return f"{job.id}: {job.state.value}{why}"


def _result(job: Job) -> str:
    if not job.evaluation:
        return ""
    shown = {name: job.evaluation.get(name) for name in ("top_1", "top_5", "loss", "certainty")}
    return ": test " + ", ".join(
        f"{name} {value:.4f}" for name, value in shown.items() if isinstance(value, int | float)
    )


class _Terminal:
    """Standard error for rich; it may be closed while the work goes on."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainReporter:
    """Lines for a log file: one every ten seconds and at each epoch's end."""

    def __init__(self, touched: list[str]) -> None:
        self._touched = touched
        self._said_at = 0.0
        self._said_epoch = -1
        self._pace = Pace()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def note(self, text: str) -> None:
        """Write the line."""
        say(text)

    def started(self, job: Job) -> None:
        """Say what begins."""
        self._touched.append(job.id)
        self._pace = Pace()
        self._said_at, self._said_epoch = time.monotonic(), job.epoch
        self.note(started_text(job))

    def progressed(self, job: Job, progress: Progress) -> None:
        """Say where the stage is, now and then."""
        now = time.monotonic()
        eta = self._pace.eta_seconds(progress)
        new_epoch = progress.epoch > self._said_epoch
        if not new_epoch and now - self._said_at < PLAIN_SECONDS:
            return
        self._said_at, self._said_epoch = now, progress.epoch
        self.note(f"{job.id}: {progress_text(progress, eta)}")

    def ended(self, job: Job) -> None:
        """Say what became of it."""
        self.note(ended_text(job, self._pace.epochs))


class InPlaceReporter(PlainReporter):
    """One line that is written again and again, each time ended by a carriage return."""

    _width = 0  # of what stands in the line

    def note(self, text: str) -> None:
        """Write the line above the one that is written again."""
        self._write(text, "\n")
        self._width = 0

    def progressed(self, job: Job, progress: Progress) -> None:
        """Write the line again, not too often."""
        now = time.monotonic()
        eta = self._pace.eta_seconds(progress)
        if now - self._said_at >= IN_PLACE_SECONDS:
            self._said_at = now
            self._write(f"{job.id}: {progress_text(progress, eta)}", "\r")

    def _write(self, text: str, end: str) -> None:
        to_stderr(f"{text.ljust(self._width)}{end}")
        self._width = len(text)


def progress_text(progress: Progress, eta_seconds: float | None) -> str:
    """Epoch, step, metrics, speed, time left, time since the last commit."""
    parts = []
    if progress.stage == "evaluate":
        parts.append(f"evaluating {progress.step}/{progress.steps}")
    else:
        in_validation = progress.stage == "validate"
        inside = progress.step > 0 or in_validation or not progress.epoch
        parts.append(f"epoch {progress.epoch + inside}/{progress.epochs}")
        steps = f"/{progress.steps}" if progress.steps else ""
        if progress.step or not progress.epoch:
            parts.append(f"{'validation ' if in_validation else ''}step {progress.step}{steps}")
    if progress.metrics:
        parts.append(metrics_text(progress.metrics))
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:.0f} img/s")
    if eta_seconds is not None:
        parts.append(f"ETA {duration(eta_seconds)}")
    if progress.unsaved_seconds is not None and progress.stage != "evaluate":
        parts.append(f"unsaved {duration(progress.unsaved_seconds)}")
    return ", ".join(parts)


class LiveReporter:
    """A line that moves, for terminals and notebooks."""

    def __init__(self, console: Console, touched: list[str]) -> None:
        self._touched = touched
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._task: TaskID | None = None
        self._pace = Pace()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Write the line above the moving one."""
        self._bar.console.print(text, markup=False, highlight=False)

    def started(self, job: Job) -> None:
        """Say what begins; until the first step the bar pulses."""
        self._touched.append(job.id)
        self._pace = Pace()
        self.note(started_text(job))
        text = "building the network and its graph"
        self._task = self._bar.add_task(job.id, total=None, text=text)

    def progressed(self, job: Job, progress: Progress) -> None:  # noqa: ARG002 - one bar, one job
        """Move the line."""
        if self._task is None:
            return
        self._bar.update(
            self._task,
            total=progress.steps or None,
            completed=progress.step,
            text=progress_text(progress, self._pace.eta_seconds(progress)),
        )

    def ended(self, job: Job) -> None:
        """Take the line away and say what became of the job."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self.note(ended_text(job, self._pace.epochs))


def columns(
    rows: Sequence[Sequence[str]], *, styles: Sequence[str], styled: int
) -> list[list[tuple[str, str]]]:
    """Align the cells of a table; column `styled` gets the style of its row.

    Every line is a list of (text, style). rich's own table takes a millisecond a row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, style in zip(rows, styles, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        before, after = "  ".join(cells[:styled]), "  ".join(cells[styled + 1 :])
        lines.append([(f"{before}  ", ""), (cells[styled], style), (f"  {after.rstrip()}", "")])
    return lines


def show(lines: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Print lines, in colour on a terminal; a long table there goes without, to be fast."""
    console = Console()
    if not console.is_terminal or len(lines) > MANY_LINES:
        sys.stdout.write("".join("".join(text for text, _ in line) + "\n" for line in lines))
        return
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text.

    Example:
        >>> sparkline([0.0, 0.5, 1.0])
        '▁▅█'
    """
    ticks = "▁▂▃▄▅▆▇█"
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(ticks[round((value - low) / span * (len(ticks) - 1))] for value in values)


def ago(delta: timedelta) -> str:
    """`3m ago`."""
    return f"{duration(max(0.0, delta.total_seconds()))} ago"
