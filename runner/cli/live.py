"""What a worker says while it works: a line that moves on a terminal, plain lines elsewhere."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import IO, cast

from rich.console import Console, Group
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runner.cli import words
from runner.cli.common import say, to_stderr
from runner.cli.render import fitting
from runner.engine.pace import Pace
from runner.errors import StoreError, StoreRefusedError
from runner.queue.job import Job, Stage
from runner.queue.texts import duration
from runner.quiet import Lasting
from runner.store import receiving
from runner.training.progress import Progress

PLAIN_SECONDS = 10.0  #: between plain progress lines
EPOCH_SECONDS = 5.0  #: between plain lines of epochs
IN_PLACE_SECONDS = 1.0  #: between two writings of a line in place
SILENT_SECONDS = 5.0  #: without a step, until that is shown
ROOM = len("^C") + 1  #: behind the line that moves, else a Ctrl-C would begin a line of its own
WIDE = 120  #: columns, from which on the line has room for a bar and the speed
WATCH_SECONDS = 2.0  #: between two looks at all jobs
PLAIN = "RUNNER_PLAIN"  #: set where several workers share a terminal
IN_PLACE = "RUNNER_IN_PLACE"  #: set by `runner.run`, which shows our progress in a notebook


@contextmanager
def make_reporter() -> "Iterator[PlainReporter]":
    """Live progress where standard error is a terminal, else plain lines.

    A notebook's `!runner` looks like a terminal and understands only carriage returns.
    """
    stream = sys.stderr
    if os.environ.get(PLAIN):
        yield PlainReporter()
        return
    if in_notebook(os.environ):
        yield InPlaceReporter()
        return
    if stream.isatty():  # of our own: what is imported may be kept from writing for seconds
        own = os.dup(stream.fileno())
        stream = os.fdopen(own, "w", encoding=stream.encoding, errors="replace")
    console = Console(file=cast(IO[str], Lasting(stream)))
    if not console.is_terminal:
        yield PlainReporter()
        return
    reporter = LiveReporter(console)
    with reporter.live:
        yield reporter


def in_notebook(environ: Mapping[str, str]) -> bool:
    """Whether our output appears in a notebook's cell: `runner.run`, or `!` of ipykernel."""
    shell = "JPY_PARENT_PID" in environ and environ.get("TERM") == "xterm-color"
    return IN_PLACE in environ or shell


class PlainReporter:
    """Lines for a log file: one every few seconds; of the first and the last epoch for sure."""

    def __init__(self) -> None:
        self.touched: list[str] = []  #: the jobs that are worked on
        self.last: Job | None = None  #: of them, as it was left
        self.on_end: Callable[[Job], None] = lambda _: None  #: called with each, likewise
        self._job: Job  # the one that is
        self._pace = Pace()
        self._shown_at = 0.0
        self._epoch = 0
        self._epoch_shown_at = -math.inf
        self._eta: float | None = None  # seconds to the stage's end
        self._reads = False  # the last line was of data that are read

    def note(self, text: str) -> None:
        """Write the line."""
        say(text)

    def started(self, job: Job) -> None:
        """Show what begins."""
        self.touched.append(job.id)
        self.last = None
        self._job, self._pace, self._epoch = job, Pace(), job.epoch
        self._shown_at, self._epoch_shown_at = monotonic(), -math.inf
        self.note(words.started(job))

    def progressed(self, job: Job, progress: Progress) -> None:  # noqa: ARG002 - the one begun
        """Show where the stage is, now and then."""
        before, self._epoch = self._epoch, progress.epoch
        self._eta = self._pace.eta_seconds(progress)
        if progress.stage == receiving.STAGE and not progress.steps:
            return  # less than a megabyte, or nobody knows how much: nothing to say
        # an epoch that an earlier attempt has ended has no metrics
        self._show(progress, ends_epoch=progress.epoch > before and bool(progress.metrics))

    def _show(self, progress: Progress, *, ends_epoch: bool) -> None:
        now = monotonic()
        if ends_epoch:
            last = progress.epoch == progress.epochs
            due = last or now - self._epoch_shown_at >= EPOCH_SECONDS
            self._epoch_shown_at = now if due else self._epoch_shown_at
        else:
            due = now - self._shown_at >= PLAIN_SECONDS
        reads = progress.stage == receiving.STAGE
        if due or (self._reads and reads and progress.step == progress.steps):
            self._shown_at, self._reads = now, reads and progress.step < progress.steps
            self.note(words.progress_line(self._job, progress, self._eta))

    def ended(self, job: Job) -> None:
        """Show what became of it."""
        self.last = job
        self.note(words.ended(job, self._pace.epochs))
        self.on_end(job)


class InPlaceReporter(PlainReporter):
    """One line that is written again and again, each time ended by a carriage return."""

    _width = 0  # of what stands in the line

    def note(self, text: str) -> None:
        """Write the line above the one that is written again."""
        self._write(text, "\n")
        self._width = 0

    def _show(self, progress: Progress, *, ends_epoch: bool) -> None:
        if ends_epoch:
            self.note(words.epoch_line(self._job, progress))
        elif monotonic() - self._shown_at >= IN_PLACE_SECONDS:
            self._shown_at = monotonic()
            self._write(words.progress_line(self._job, progress, self._eta), "\r")

    def _write(self, text: str, end: str) -> None:
        to_stderr(f"{text.ljust(self._width)}{end}")
        self._width = len(text)


class LiveReporter(PlainReporter):
    """A line that moves, for terminals; while nothing is seen of the stage, a clock runs in it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._spinner = Spinner("dots", style="progress.spinner")
        self._bar = ProgressBar(total=None, width=12)
        self._seen: Progress | None = None
        self._begun_at: int | None = None  # the optimizer step at which the attempt began
        self._begin("", "starting, or waiting for a job")
        self.live = Live(  #: to be entered
            console=console, transient=True, refresh_per_second=4, get_renderable=self._draw
        )

    def _begin(self, name: str, doing: str) -> None:
        """Let the line show a clock from now on."""
        self._name, self._doing, self._seen = name, doing, None
        self._moved_at = monotonic()

    def _draw(self) -> Constrain:
        silent, seen, bar = monotonic() - self._moved_at, self._seen, self._bar
        narrow = self._console.width < WIDE
        parts = [f"{self._doing}, {duration(silent)}"]
        bar.total, bar.completed = None, 0  # it pulses
        if seen is not None:
            still = f"no step for {duration(silent)}" if silent >= SILENT_SECONDS else ""
            pace = words.pace(self._job, seen, self._eta, short=narrow)
            parts = [words.unsaved(seen), still, words.position(seen), pace]
            bar.total, bar.completed = seen.steps or None, seen.step
        text = Text(", ".join(filter(None, parts)), no_wrap=True, overflow="ellipsis")
        line = Table.grid(padding=(0, 1))
        name = Text(self._name, "bold")
        first = (self._spinner, name) if narrow else (self._spinner, name, bar)
        for _ in first:
            line.add_column(no_wrap=True)
        line.add_column()  # rich narrows what may be wrapped
        line.add_row(*first, text)
        return Constrain(line, self._console.width - ROOM)

    def note(self, text: str) -> None:
        """Write the line above the moving one."""
        self._console.print(text, markup=False, highlight=False)

    def started(self, job: Job) -> None:
        """Show what begins; until the first step the bar pulses."""
        super().started(job)
        self._begun_at = None
        evaluates = job.stage is Stage.EVALUATE
        self._begin(job.id, "loading what is evaluated" if evaluates else "building the network")

    def _show(self, progress: Progress, *, ends_epoch: bool) -> None:
        if ends_epoch:
            self.note(words.epoch_line(self._job, progress, self._console.width))
        if progress.stage == receiving.STAGE:  # whoever has it all goes on to build
            self._seen = progress if progress.step < progress.steps else None
            self._moved_at = monotonic()
            return
        if self._begun_at is None:
            self._begun_at = progress.global_step
        # the first step may still have to be compiled
        if progress.stage != "train" or progress.global_step != self._begun_at:
            self._seen, self._moved_at = progress, monotonic()

    def ended(self, job: Job) -> None:
        """Take the line away and show what became of the job."""
        self._begin("", "waiting for a job")
        super().ended(job)


def watch(look: Callable[[], tuple[list[tuple[str, ...]], list[str], list[str]]]) -> None:
    """Show a table, its rows and their styles, and warnings, until Ctrl-C."""
    seen = Group()
    with Live(auto_refresh=False) as live:
        while True:
            away = []
            try:
                rows, styles, warnings = look()
                most = max(1, live.console.height - 2 - len(warnings))  # header, and what is left
                table = fitting(rows[: most + 1], styles[:most], live.console.width)
                left = len(rows) - 1 - most
                more = [Text(f"{left} more, see 'runner status'")] if left > 0 else []
                seen = Group(*(Text(problem, "red") for problem in warnings), table, *more)
            except StoreRefusedError:
                raise
            except StoreError as error:  # what was seen last stays, and is looked for again
                away = [Text(f"the bucket is away, trying again: {error}", "yellow")]
            live.update(Group(*away, seen), refresh=True)
            time.sleep(WATCH_SECONDS)
