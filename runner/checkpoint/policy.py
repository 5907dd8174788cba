"""When to save and what to keep: small pure objects that decide, and do nothing.

What comes in is what happened since the last checkpoint; no object here reads a clock or a
store, so every decision can be tested as a table.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Protocol

from runner.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Since:
    """What happened since the last checkpoint was taken."""

    steps: int  #: optimizer updates
    epochs: int  #: epoch ends
    seconds: float
    epoch_end: bool  #: an epoch just ended
    cost_seconds: float = 0.0  #: what the last checkpoint cost the training


class Every(Protocol):
    """Says when a checkpoint is due."""

    def due(self, since: Since) -> bool:
        """Whether to save now."""

    def describe(self, cost_seconds: float = 0.0) -> str:
        """Say the interval and its reason, for people; what a checkpoint costs may decide it."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """After so many steps, seconds or epochs, whichever comes first; by itself: never.

    Steps and seconds end where a step ends, epochs at the end of an epoch. Without any, only those
    checkpoints are taken that something else asks for (the first, the best, the final one).
    """

    steps: float = math.inf  #: optimizer updates
    seconds: float = math.inf
    epochs: float = math.inf

    def due(self, since: Since) -> bool:  # noqa: D102
        late = since.steps > 0 and since.seconds >= self.seconds
        ended = since.epoch_end and since.epochs >= self.epochs
        return late or ended or since.steps >= self.steps

    def describe(self, cost_seconds: float = 0.0) -> str:  # noqa: ARG002, D102
        known = [
            "epoch" if name == "epochs" and count == 1 else f"{count:g} {name}"
            for name, count in (("steps", self.steps), ("epochs", self.epochs))
            if count < math.inf
        ]
        if self.seconds < math.inf:
            known.append(f"at most {self.seconds:g} s" if known else f"{self.seconds:g} s")
        return f"every {', '.join(known)}" if known else "never"


@dataclass(frozen=True, kw_only=True)
class Auto:
    """At the interval that loses least: saving costs time, and so does repeating lost work.

    Young (1974) and Daly (2006): with a cost C per checkpoint and a mean time M between
    interruptions, the expected loss is least near sqrt(2 C M). The overhead budget keeps it from
    being shorter, `max_loss_seconds` from being longer (and wins).
    """

    mtbf_seconds: float  #: mean time between interruptions, see `mean_time_between`
    max_loss_seconds: float  #: at most this much work may be repeated
    overhead: float = 0.01  #: largest share of the training's time that checkpoints may take
    floor_seconds: float = 5.0  #: shorter intervals gain nothing and wear the bucket
    interruptions: int = 0  #: that were seen so far: with none, the mean time is assumed

    def interval_seconds(self, cost_seconds: float) -> float:
        """Return the seconds from one checkpoint to the next."""
        best = daly(cost_seconds, self.mtbf_seconds)
        best = max(best, cost_seconds / self.overhead, self.floor_seconds)
        return min(best, self.max_loss_seconds)

    def due(self, since: Since) -> bool:  # noqa: D102
        return since.steps > 0 and since.seconds >= self.interval_seconds(since.cost_seconds)

    def describe(self, cost_seconds: float = 0.0) -> str:
        """Say the interval that a cost leads to, and what decided it."""
        if cost_seconds <= 0:
            return "auto: as soon as it is known what a checkpoint costs"
        interval = self.interval_seconds(cost_seconds)
        best = daly(cost_seconds, self.mtbf_seconds)
        reasons = {
            self.floor_seconds: "shortest sensible interval",
            cost_seconds / self.overhead: f"overhead budget of {self.overhead:.1%}",
            self.max_loss_seconds: "max_loss",
        }
        reason = reasons.get(interval, "loses least time, by Young/Daly")
        alone = "" if interval == best else f"; Young/Daly alone: {best:.1f} s"
        seen = f"{self.interruptions} seen" if self.interruptions else "assumed, none seen yet"
        return (
            f"every {interval:.1f} s ({reason}, reckoning with an interruption every"
            f" {self.mtbf_seconds / 3600:.2g} h, {seen};"
            f" a checkpoint costs {cost_seconds:.3f} s{alone})"
        )


def daly(cost_seconds: float, mtbf_seconds: float) -> float:
    """Return the interval between checkpoints that loses least time.

    Daly's higher-order estimate; for small costs it is Young's sqrt(2 C M).
    """
    if cost_seconds <= 0:
        return 0.0
    if cost_seconds >= 2 * mtbf_seconds:
        return mtbf_seconds
    ratio = math.sqrt(cost_seconds / (2 * mtbf_seconds))
    interval = math.sqrt(2 * cost_seconds * mtbf_seconds) * (1 + ratio / 3 + ratio**2 / 9)
    return interval - cost_seconds


def mean_time_between(
    *, running_seconds: float, interruptions: int, prior_seconds: float = 4 * 3600.0
) -> float:
    """Return the mean time between interruptions that this job's history suggests.

    The prior counts as one interruption in `prior_seconds`, so that a young job has a sensible
    figure and an old one its own.
    """
    return (running_seconds + prior_seconds) / (interruptions + 1)


#: a write may take this much longer than the last one did
MARGIN = 1.5


def fits(*, expected_seconds: float, left_seconds: float | None) -> bool:
    """Whether to begin a last checkpoint: it is likely to be committed in the time left.

    Args:
        expected_seconds: that it takes, from what earlier ones took; 0 where none was written.
        left_seconds: for it; None where nothing limits it.
    """
    return left_seconds is None or 0 < left_seconds >= MARGIN * expected_seconds


_SECONDS = {"s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60}
_SECONDS |= {"minutes": 60, "h": 3600, "hour": 3600, "hours": 3600}
_COUNTED = {"step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs"}
_FORM = re.compile(r"(\d{1,9}(?:\.\d+)?)\s*([a-z]+)")


def for_job(
    text: str, *, max_loss_seconds: float, running_seconds: float, interruptions: int
) -> Every:
    """Return the policy of a job: `parse`, or "auto" from what the job has been through.

    Args:
        text: of the spec.
        max_loss_seconds: at most this much work may be repeated: half of it before a checkpoint
            begins, so that the other half is left for the writing.
        running_seconds: that the job was worked on so far.
        interruptions: that it has seen.
    """
    most = max_loss_seconds / 2
    if text.strip().lower() != "auto":
        every = parse(text)
        return replace(every, seconds=min(every.seconds, most))
    mtbf = mean_time_between(running_seconds=running_seconds, interruptions=interruptions)
    return Auto(mtbf_seconds=mtbf, max_loss_seconds=most, interruptions=interruptions)


def parse(text: str) -> Interval:
    """Return the policy that "30s", "10m", "200 steps" or "2 epochs" names.

    Raises:
        SpecError: none of these. ("auto" needs figures: build `Auto`.)
    """
    match = _FORM.fullmatch(text.strip().lower())
    number, unit = (float(match[1]), match[2]) if match else (0.0, "")
    if number > 0 and unit in _SECONDS:
        return Interval(seconds=number * _SECONDS[unit])
    if number > 0 and number.is_integer() and unit in _COUNTED:
        return Interval(**{_COUNTED[unit]: number})
    raise SpecError(
        f"{text!r} is no checkpoint interval. Known: '30s', '10m', '1h', '200 steps', '1 epoch'."
    )
