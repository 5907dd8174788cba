"""A training on a spot machine: when it is to be had, what it costs to be interrupted.

The machine times come from public traces of availability (Wu et al., Can't Be Late, NSDI 2024);
the intervals between checkpoints are decided by the product's own policies.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from runner.checkpoint.policy import Every, Interval, Since, fits, for_job
from runner.engine.notices.watcher import LEAD_SECONDS

ENDLESS = 400 * 86400.0  #: seconds of machine time after which a run is given up


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is trained; all in seconds."""

    name: str
    epoch: float  #: of steps, without anything else
    start: float  #: from a process's begin to its first step
    work: float  #: of steps, in all


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a training is saved and resumed; times in seconds."""

    name: str
    blocked: float = 0.0  #: the training stands still at a save
    written: float = 0.0  #: from a save to its commit, beside the training
    restored: float = 0.0  #: of a resume
    #: from the seconds worked so far and the interruptions so far; None: it never saves
    every: Callable[[float, int], Every] | None = None
    whole_epochs: bool = False  #: what is within an epoch is done again
    notice: float = 0.0  #: of the machine's end, if the method hears it


@dataclass
class Outcome:
    """What became of a training; all in seconds of one machine."""

    paid: float = 0.0  #: while the machine was there, until the training's end
    kept: float = 0.0  #: of steps that count
    repeated: float = 0.0  #: of steps that were done again
    interruptions: int = 0
    ended: bool = False
    lost: list[float] = field(default_factory=list)  #: of steps, at each interruption

    @property
    def goodput(self) -> float:
        """Share of the paid time that became steps which count."""
        return self.kept / self.paid if self.ended else 0.0


def traces(path: Path) -> dict[str, list[float]]:
    """Return, for each zone, for how long the machine was there each time."""
    found = json.loads(path.read_text())["traces"]
    return {
        name: one["seconds"][0 if one["first"] == "up" else 1 :: 2] for name, one in found.items()
    }


def from_each(times: Sequence[float], count: int) -> Iterator[list[float]]:
    """Yield the trace as it is for trainings that begin at `count` places of it; it wraps."""
    for place in range(count):
        begin = place * len(times) // count
        yield [*times[begin:], *times[:begin]]


def simulate(shape: Shape, method: Method, times: Sequence[float]) -> Outcome:
    """Train on a machine that is there for `times`, in seconds, one after the other."""
    out = Outcome()
    for there in islice(cycle(times), 100_000):
        done, saved, used = _attempt(shape, method, out, there)
        out.paid += used
        if done >= shape.work:
            out.kept, out.ended = shape.work, True
            return out
        out.interruptions += 1
        out.lost.append(done - saved)
        out.repeated += done - saved
        out.kept = saved
        if out.paid > ENDLESS:
            break
    return out


def _attempt(
    shape: Shape, method: Method, out: Outcome, there: float
) -> tuple[float, float, float]:
    """Return the steps done and those saved when the machine goes, and the seconds used."""
    done = saved = out.kept
    now = shape.start + (method.restored if out.kept else 0.0)
    every = method.every(out.paid, out.interruptions) if method.every else Interval()
    left = there - min(method.notice, LEAD_SECONDS)
    pending = (math.inf, 0.0)  # when the newest save is committed, and what it holds
    while now < left:
        ahead = min(_until_due(every, done, shape, method), shape.work - done)
        if now + ahead > left:
            done += left - now
            now = left
            break
        now, done = now + ahead, done + ahead
        if done >= shape.work:
            return done, done, now
        now += method.blocked
        if pending[0] <= now:
            saved, pending = pending[1], (math.inf, 0.0)
        if math.isinf(pending[0]):
            pending = (now + method.written, _resumable(done, shape, method))
    if pending[0] <= there:
        saved = pending[1]
    expected, left = method.blocked + method.written, there - now
    if method.notice and fits(expected_seconds=expected, left_seconds=left):
        saved = max(saved, done)
    return done, saved, there


def _until_due(every: Every, done: float, shape: Shape, method: Method) -> float:
    """Return the seconds of training until the policy asks for a checkpoint."""
    to_end = shape.epoch - done % shape.epoch
    if isinstance(every, Interval) and math.isinf(every.seconds):
        return to_end if every.epochs < math.inf else math.inf
    low, high = 0.0, 1.0

    def due(seconds: float) -> bool:
        since = Since(
            steps=1, epochs=0, seconds=seconds, epoch_end=False, cost_seconds=method.blocked
        )
        return every.due(since)

    while not due(high):
        low, high = high, 2 * high
    while high - low > 0.1:
        middle = (low + high) / 2
        low, high = (low, middle) if due(middle) else (middle, high)
    return high


def _resumable(done: float, shape: Shape, method: Method) -> float:
    return done // shape.epoch * shape.epoch if method.whole_epochs else done


def every_epoch(_worked: float, _interruptions: int) -> Every:
    return Interval(epochs=1)


def each(text: str) -> Callable[[float, int], Every]:
    """Return the product's policy for `checkpoint.every` of a spec."""

    def policy(worked: float, interruptions: int) -> Every:
        return for_job(
            text, max_loss_seconds=600, running_seconds=worked, interruptions=interruptions
        )

    return policy
