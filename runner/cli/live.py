"""What a worker says while it works: a line that moves on a terminal, plain lines elsewhere."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from rich.console import Console, Group
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from runner.cli.common import say, to_stderr
from runner.cli.render import (
    duration,
    ended_text,
    epoch_text,
    fitting,
    progress_text,
    started_text,
    unsaved_text,
)
from runner.engine.pace import Pace
from runner.errors import StoreError, StoreRefusedError
from runner.queue.job import Job
from runner.training.progress import Progress

PLAIN_SECONDS = 10.0  #: between plain progress lines
EPOCH_SECONDS = 5.0  #: between plain lines of epochs
IN_PLACE_SECONDS = 1.0  #: between two writings of a line in place
SILENT_SECONDS = 5.0  #: without a step, until that is said
ROOM = len("^C") + 1  #: behind the line that moves, else a Ctrl-C would begin a line of its own
WATCH_SECONDS = 2.0  #: between two looks at all jobs
PLAIN = "RUNNER_PLAIN"  #: set where several workers share a terminal
IN_PLACE = "RUNNER_IN_PLACE"  #: set by `runner.run`, which shows our progress in a notebook


@contextmanager
def make_reporter(touched: list[str]) -> "Iterator[PlainReporter]":
    """Live progress where standard error is a terminal, else plain lines.

    A notebook's `!runner` looks like a terminal and understands only carriage returns.

    Args:
        touched: gets the id of each job that is worked on.
    """
    stream = sys.stderr
    if os.environ.get(PLAIN):
        yield PlainReporter(touched)
        return
    if in_notebook(os.environ):
        yield InPlaceReporter(touched)
        return
    if stream.isatty():  # of our own: what is imported may be kept from writing for seconds
        own = os.dup(stream.fileno())
        stream = os.fdopen(own, "w", encoding=stream.encoding, errors="replace")
    console = Console(file=cast(IO[str], _Terminal(stream)))
    if not console.is_terminal:
        yield PlainReporter(touched)
        return
    reporter = LiveReporter(console, touched)
    with reporter.live:
        yield reporter


def in_notebook(environ: Mapping[str, str]) -> bool:
    """Whether our output appears in a notebook's cell: `runner.run`, or `!` of ipykernel."""
    shell = "JPY_PARENT_PID" in environ and environ.get("TERM") == "xterm-color"
    return IN_PLACE in environ or shell


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
    """Lines for a log file: one every few seconds; of the first and the last epoch for sure."""

    def __init__(self, touched: list[str]) -> None:
        self._touched = touched
        self._said_at = 0.0
        self._epoch_said_at = -math.inf
        self._epoch = 0
        self._pace = Pace()

    def note(self, text: str) -> None:
        """Write the line."""
        say(text)

    def started(self, job: Job) -> None:
        """Say what begins."""
        self._touched.append(job.id)
        self._pace = Pace()
        self._said_at, self._epoch_said_at = time.monotonic(), -math.inf
        self._epoch = job.epoch
        self.note(started_text(job))

    def progressed(self, job: Job, progress: Progress) -> None:
        """Say where the stage is, now and then."""
        now, eta = time.monotonic(), self._pace.eta_seconds(progress)
        if self._ends_epoch(progress):
            due = progress.epoch == progress.epochs or now - self._epoch_said_at >= EPOCH_SECONDS
            self._epoch_said_at = now if due else self._epoch_said_at
        else:
            due = now - self._said_at >= PLAIN_SECONDS
        if due:
            self._said_at = now
            self.note(f"{job.id}: {progress_text(progress, eta)}")

    def ended(self, job: Job) -> None:
        """Say what became of it."""
        self.note(ended_text(job, self._pace.epochs))

    def _ends_epoch(self, progress: Progress) -> bool:
        before, self._epoch = self._epoch, progress.epoch
        return progress.epoch > before


class InPlaceReporter(PlainReporter):
    """One line that is written again and again, each time ended by a carriage return."""

    _width = 0  # of what stands in the line

    def note(self, text: str) -> None:
        """Write the line above the one that is written again."""
        self._write(text, "\n")
        self._width = 0

    def progressed(self, job: Job, progress: Progress) -> None:
        """Write the line again, not too often; an epoch leaves its own behind."""
        now, eta = time.monotonic(), self._pace.eta_seconds(progress)
        if self._ends_epoch(progress):
            self.note(epoch_text(progress))
        elif now - self._said_at >= IN_PLACE_SECONDS:
            self._said_at = now
            self._write(f"{job.id}: {progress_text(progress, eta)}", "\r")

    def _write(self, text: str, end: str) -> None:
        to_stderr(f"{text.ljust(self._width)}{end}")
        self._width = len(text)


class _Where(ProgressColumn):
    """Where the stage is, as far as there is room; a clock while nothing is seen of it."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=False))  # rich narrows these columns first

    def render(self, task: Task) -> Text:
        silent = task.get_time() - task.fields["moved_at"]
        text = task.fields["text"]
        if not text:
            text = f"{task.fields['doing']}, {duration(silent)}"
        elif silent >= SILENT_SECONDS:
            text = f"no step for {duration(silent)}, {text}"
        return Text(text, no_wrap=True, overflow="ellipsis")


class LiveReporter(PlainReporter):
    """A line that moves, for terminals."""

    def __init__(self, console: Console, touched: list[str]) -> None:
        super().__init__(touched)
        self._console = console
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[unsaved]}"),
            _Where(),
        )
        self.live = Live(  #: to be entered
            console=console,
            transient=True,
            refresh_per_second=4,
            get_renderable=lambda: Constrain(self._bar, console.width - ROOM),
        )
        self._task = self._begin("", "starting, or waiting for a job")
        self._begun_at: int | None = None  # the optimizer step at which the attempt began

    def note(self, text: str) -> None:
        """Write the line above the moving one."""
        self._console.print(text, markup=False, highlight=False)

    def started(self, job: Job) -> None:
        """Say what begins; until the first step the bar pulses."""
        super().started(job)
        self._begun_at = None
        self._bar.remove_task(self._task)
        self._task = self._begin(job.id, "building the network")

    def progressed(self, job: Job, progress: Progress) -> None:  # noqa: ARG002 - one bar, one job
        """Move the line; an epoch leaves its own behind."""
        eta, unsaved = self._pace.eta_seconds(progress), unsaved_text(progress)
        if self._ends_epoch(progress):
            self.note(epoch_text(progress))
        if self._begun_at is None:
            self._begun_at = progress.global_step
        if progress.stage == "train" and progress.global_step == self._begun_at:
            return  # the first step may still have to be compiled
        self._bar.update(
            self._task,
            total=progress.steps or None,
            completed=progress.step,
            text=progress_text(progress, eta, unsaved=False),
            unsaved=f"{unsaved}," if unsaved else "",
            moved_at=self._bar.get_time(),
        )

    def ended(self, job: Job) -> None:
        """Take the line away and say what became of the job."""
        self._bar.remove_task(self._task)
        self._task = self._begin("", "waiting for a job")
        super().ended(job)

    def _begin(self, name: str, doing: str) -> TaskID:
        now = self._bar.get_time()
        return self._bar.add_task(name, total=None, doing=doing, text="", unsaved="", moved_at=now)


def watch(look: Callable[[], tuple[list[tuple[str, ...]], list[str], list[str]]]) -> None:
    """Show a table, its rows and their styles, and warnings, until Ctrl-C."""
    seen = Group()
    with Live(auto_refresh=False) as live:
        while True:
            away = []
            try:
                rows, styles, warnings = look()
                most = live.console.height
                table = fitting(rows[: most + 1], styles[:most], live.console.width)
                seen = Group(*(Text(words, "red") for words in warnings), table)
            except StoreRefusedError:
                raise
            except StoreError as error:  # what was seen last stays, and is looked for again
                away = [Text(f"the bucket is away, trying again: {error}", "yellow")]
            live.update(Group(*away, seen), refresh=True)
            time.sleep(WATCH_SECONDS)
