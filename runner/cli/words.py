"""The lines that a worker writes about a job: its attempts and their progress."""

import math
from collections.abc import Callable, Mapping

from runner.cli.common import command
from runner.queue.job import Job, Stage, State
from runner.queue.texts import count, duration, metric_texts, result_texts
from runner.queue.view import worker_of
from runner.store import receiving
from runner.training.progress import Progress


def started(job: Job) -> str:
    """The line that opens an attempt."""
    what = "training" if job.stage is Stage.TRAIN else "evaluating"
    if job.stage is Stage.TRAIN and job.checkpoints:
        after = f"after epoch {job.epoch}, " if job.epoch else ""
        what = f"resuming {after}at step {job.checkpoints[0].get('step', 0)}"
    tries = f" (attempt {job.tries})" if job.tries > 1 else ""
    return f"{job.id}: {what}{tries}"


def ended(job: Job, epochs: int = 0) -> str:
    """The line that closes an attempt; `epochs`: that its training was to have, if known."""
    say = _ENDED.get(job.state)
    why = f": {job.reason}" if job.reason else ""
    return f"{job.id}: {say(job, epochs) if say else f'{job.state.value}{why}'}"


def _held(job: Job, _: int) -> str:
    # the command that it names: today's, or the former one
    if "runner unhold" in job.reason or "runner release" in job.reason:
        return f"held: {job.reason}"
    why = f"held: {job.reason}" if job.reason else "held"
    return f"{why}; {command('unhold', job.id)} lets it be taken up again"


def _queued(job: Job, epochs: int) -> str:
    if job.stage is Stage.EVALUATE and job.kind == "finish":
        # an early end of a phase before the last one is not seen here
        how = "stopped early" if job.epoch < epochs else "ended"
        after = f"after {count(job.epoch, 'epoch')}, at step {job.step}"
        return f"training {how} {after}{job.weights}; evaluation queued"
    return f"queued again at step {job.step}: {job.reason}" if job.reason else "queued"


def _succeeded(job: Job, _: int) -> str:
    found = ", ".join(result_texts(job))
    why = f"{job.reason}; " if job.reason else ""
    return f"{why}succeeded{f': test {found}' if found else job.weights}"


_ENDED: Mapping[State, Callable[[Job, int], str]] = {
    State.SUCCEEDED: _succeeded,
    State.QUEUED: _queued,
    State.HELD: _held,
    State.CANCELLED: lambda job, _: job.reason or "cancelled",
    State.RUNNING: lambda job, _: f"another worker has it: {worker_of(job)}",
}


def position(progress: Progress) -> str:
    """Epoch and step."""
    if progress.stage == receiving.STAGE:
        if progress.step == progress.steps:
            return f"{progress.steps:,} MB of data read; building the network and its first step"
        return f"{receiving.STAGE}, {progress.step:,} of {progress.steps:,} MB"
    if progress.stage == "evaluate":
        return f"evaluating {progress.step}" + (f"/{progress.steps}" if progress.steps else "")
    in_validation = progress.stage == "validate"
    inside = progress.step > 0 or in_validation or not progress.epoch
    text = f"epoch {progress.epoch + inside}/{progress.epochs}"
    if progress.step or not progress.epoch:
        text += f", {'validation ' if in_validation else ''}step {progress.step}"
        text += f"/{progress.steps}" if progress.steps else ""
    return text


def unsaved(progress: Progress) -> str:
    """How much would be lost now, if anything could be."""
    safe = progress.unsaved_seconds is None or progress.stage == "evaluate"
    return "" if safe else f"unsaved {duration(progress.unsaved_seconds)}"


def speed(progress: Progress) -> str:
    """How fast it is, in steps where nobody knows how many examples are in one."""
    rate = (progress.steps_per_second or 0.0) * (progress.batch_size or 1)
    number = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{number} {'examples' if progress.batch_size else 'steps'}/s" if rate else ""


def pace(job: Job, progress: Progress, eta: float | None, *, short: bool = False) -> str:
    """Time left and, unless it is to be short, speed; metrics last, to be cut off."""
    parts = [
        "" if eta is None else f"ETA {duration(eta)}",
        "" if short else speed(progress),
        "  ".join(metric_texts(progress.metrics, job.monitors)),
    ]
    return ", ".join(filter(None, parts))


def progress_line(job: Job, progress: Progress, eta: float | None) -> str:
    """Where the stage is, what would be lost now, how fast it is."""
    parts = position(progress), unsaved(progress), pace(job, progress, eta)
    return f"{job.id}: {', '.join(filter(None, parts))}"


def epoch_line(job: Job, progress: Progress, width: float = math.inf) -> str:
    """The line that an epoch leaves behind: as many metrics as find room in the width."""
    line = f"  epoch {progress.epoch}/{progress.epochs},"
    first, *more = metric_texts(progress.metrics, job.monitors) or [""]
    line += f" {first}"
    for text in more:
        if len(line) + 2 + len(text) > width:
            break
        line += f"  {text}"
    return line
