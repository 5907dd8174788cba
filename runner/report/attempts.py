"""What a job's attempts did and where its training was interrupted, from its records alone.

Every claim in the log begins an attempt, the next record that ends a lease or the next claim
ends it. A worker that died wrote no end: its attempt is lost, and ended with its last sign of
life. All functions are pure: records and heartbeats in, plain data out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from runner.queue import goodput
from runner.queue.job import Job, Stage
from runner.queue.protocol import Heartbeat


class Ending(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"  #: its stage is done
    PREEMPTED = "preempted"  #: it saved, and gave the job back
    HELD = "held"  #: it saved, and its job was held, by its user or for its budget
    LOST = "lost"  #: its machine or process died
    FAILED = "failed"  #: by the job's own fault
    CANCELLED = "cancelled"  #: by its user
    RUNNING = "running"  #: it has not


_ENDS = {
    "finish": Ending.FINISHED,
    "release": Ending.PREEMPTED,
    "fail": Ending.FAILED,
    "cancel": Ending.CANCELLED,
    "hold": Ending.HELD,
}
_GONE = "quarantine"  # held for an owner that died


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One claim to its end."""

    number: int  #: from 1
    stage: Stage
    host: str
    began_at: datetime
    ended_at: datetime | None  #: the last sign of life of one that was lost; None: it runs
    ending: Ending
    reason: str
    first_step: int  #: committed when it began
    saved_step: int  #: committed when it ended, or so far: the next attempt resumes there
    saved_epoch: float  #: of that step; a whole number where the steps of an epoch aren't known
    done_step: int | None  #: the newest that its heartbeats reported
    time: Mapping[str, float] = field(default_factory=dict)  #: seconds by cause; none: not known
    git_commit: str = ""  #: of the folder that it was started in; "" where there was none

    @property
    def interrupted(self) -> bool:
        """Whether it was a training that was cut short."""
        return self.stage is Stage.TRAIN and self.ending not in (Ending.FINISHED, Ending.RUNNING)

    @property
    def vague(self) -> bool:
        """Whether nobody knows what was done since its last heartbeat."""
        return self.ending in (Ending.LOST, Ending.FAILED, Ending.CANCELLED)

    @property
    def lost_steps(self) -> int | None:
        """Optimizer updates that were done and must be repeated, at least; None: not known."""
        if self.stage is not Stage.TRAIN or self.ending is Ending.RUNNING:
            return None
        if not self.vague:
            return 0
        return None if self.done_step is None else max(0, self.done_step - self.saved_step)

    def seconds(self, now: datetime) -> float:
        """How long it took, or takes already."""
        return max(0.0, ((self.ended_at or now) - self.began_at).total_seconds())

    def parts(self, now: datetime) -> dict[str, float]:
        """Return its seconds by cause, in the order of all causes; what is left is not known."""
        known = {cause: self.time[cause] for cause in goodput.CAUSES if cause in self.time}
        unknown = self.seconds(now) - sum(known.values())
        return known | ({"unknown": unknown} if unknown > 0 else {})


def attempts(
    records: Sequence[Job],
    beats: Mapping[int, Heartbeat],
    steps_per_epoch: float | None,
    *,
    lost: bool = False,
) -> list[Attempt]:
    """Return the attempts in a job's records, the oldest first.

    Args:
        records: of one job, by number.
        beats: the last heartbeat of each token, where there is one.
        steps_per_epoch: None where it isn't known.
        lost: the newest owner shows no sign of life.
    """
    places = [place for place, record in enumerate(records) if record.kind == "claim"]
    parts = [records[place:following] for place, following in pairwise([*places, len(records)])]
    return [
        _attempt(part, beats.get(part[0].token), steps_per_epoch, lost or part is not parts[-1])
        for part in parts
    ]


def _attempt(
    records: Sequence[Job], beat: Heartbeat | None, steps_per_epoch: float | None, gone: bool
) -> Attempt:
    """Return the attempt of a claim and the records after it; `gone`: its worker is."""
    claim, trains = records[0], records[0].stage is Stage.TRAIN
    newest, ending, ended_at = _fate(records, beat, gone)
    owner = claim.owner or {}
    return Attempt(
        number=claim.attempts,
        stage=claim.stage,
        host=str(owner.get("host", "?")),
        began_at=claim.updated_at,
        ended_at=ended_at,
        ending=ending,
        reason=newest.reason if newest.kind in _ENDS else "",
        first_step=claim.step,
        saved_step=newest.step,
        saved_epoch=newest.step / steps_per_epoch if steps_per_epoch else newest.epoch,
        done_step=beat.step if beat and trains else None,
        time=_time(claim, newest, beat, ending),
        git_commit=str(owner.get("git_commit", "")),
    )


def _time(claim: Job, newest: Job, beat: Heartbeat | None, ending: Ending) -> dict[str, float]:
    """Return what an attempt's time went into: what the job's did, less than before its claim.

    Its owner's last record tells all of an attempt that it ended itself, else its last heartbeat.
    """
    told, total = beat.time if beat else {}, newest.time or {}
    if ending is Ending.RUNNING:
        total = goodput.newest(total, told)
    elif ending in (Ending.LOST, Ending.CANCELLED):
        total = goodput.closed(total, told)
    return goodput.since(total, claim.time or {})


def _fate(
    records: Sequence[Job], beat: Heartbeat | None, gone: bool
) -> tuple[Job, Ending, datetime | None]:
    """Return the record where an attempt stands, how it ended, and when."""
    for record in records[1:]:
        if record.kind in _ENDS:
            return record, _ENDS[record.kind], record.updated_at
    newest = [records[0], *(record for record in records if record.kind == "commit")][-1]
    if not gone and _GONE not in [record.kind for record in records]:
        return newest, Ending.RUNNING, None
    sign = beat.sent_at if beat else None
    return newest, Ending.LOST, max(newest.updated_at, sign or newest.updated_at)
