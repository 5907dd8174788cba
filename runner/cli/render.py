"""What people read: words for a job and its progress, and tables."""

import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from runner.queue.job import Job, Stage, State
from runner.training.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

MANY_LINES = 500
#: columns that a narrow terminal is spared, the first first; "": a second metric
FIRST_TO_GO = ("", "WORKER", "SEEN", "TRY")
COLOURED = "STATUS"  #: the column that gets the style of its row, and is cut where it is too long
UNHOLD = ("unhold", "release")  #: the command in a stored reason: today's name, and the former
LEAST = 24  #: characters of it, where there are other columns to go


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


def metric_texts(metrics: Mapping[str, float]) -> list[str]:
    """The metrics that people steer by, shortest form."""
    shown = [name for name in ("loss", "top_1", "val_loss", "val_top_1") if name in metrics]
    return [f"{name} {metrics[name]:.4f}" for name in shown or list(metrics)[:3]]


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
    if job.state is State.HELD and not any(f"runner {verb} " in why for verb in UNHOLD):
        why += f"; 'runner unhold {job.id}' lets it be taken up again"
    return f"{job.id}: {job.state.value}{why}"


def _result(job: Job) -> str:
    if not job.evaluation:
        return ""
    shown = {name: job.evaluation.get(name) for name in ("top_1", "top_5", "loss", "certainty")}
    return ": test " + ", ".join(
        f"{name} {value:.4f}" for name, value in shown.items() if isinstance(value, int | float)
    )


def progress_text(progress: Progress, eta_seconds: float | None, *, unsaved: bool = True) -> str:
    """Epoch, step, time since the last commit, time left, speed; metrics last, to be cut off."""
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
    if unsaved and unsaved_text(progress):
        parts.append(unsaved_text(progress))
    if eta_seconds is not None:
        parts.append(f"ETA {duration(eta_seconds)}")
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:.0f} img/s")
    if progress.metrics:
        parts.append("  ".join(metric_texts(progress.metrics)))
    return ", ".join(parts)


def unsaved_text(progress: Progress) -> str:
    """How much would be lost now, if anything could be."""
    if progress.unsaved_seconds is None or progress.stage == "evaluate":
        return ""
    return f"unsaved {duration(progress.unsaved_seconds)}"


def epoch_text(progress: Progress) -> str:
    """The line that an epoch leaves behind."""
    metrics = "  ".join(metric_texts(progress.metrics))
    return f"  epoch {progress.epoch}/{progress.epochs}, {metrics}"


def show(rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
    """Print a table whose first row is its header, a line a row, without its empty columns.

    On a terminal it is in colour and no wider than that; a long one goes without, to be fast.
    """
    from rich.console import Console

    console = Console()
    if console.is_terminal and len(rows) <= MANY_LINES:
        console.print(fitting(rows, styles, console.width))
        return
    filled = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in filled]
    for row in zip(*filled, strict=True):
        sys.stdout.write("  ".join(map(str.ljust, row, widths)).rstrip() + "\n")


def fitting(rows: Sequence[Sequence[str]], styles: Sequence[str], width: int) -> "Table":
    """Draw a table of one line a row in so many characters."""
    from rich.table import Table
    from rich.text import Text

    header, *body = rows
    filled = {column[0]: column for column in zip(*rows, strict=True) if any(column[1:])}
    wide = {name: max(map(len, column)) + 2 for name, column in filled.items()}
    wide[COLOURED] = min(wide.get(COLOURED, 0), LEAST)
    for name in FIRST_TO_GO:
        if sum(wide.values()) > width and name != header[0]:
            wide.pop(name, None)
            filled.pop(name, None)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in filled:
        table.add_column(name, no_wrap=name != COLOURED)  # rich narrows what may be wrapped
    for row, style in zip(body, styles or [""] * len(body), strict=True):
        cells = dict(zip(header, row, strict=True))
        table.add_row(
            *(
                Text(
                    cells[name],
                    style if name == COLOURED else "",
                    no_wrap=True,
                    overflow="ellipsis",
                )
                for name in filled
            )
        )
    return table


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
