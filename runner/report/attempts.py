"""What a job's attempts did and where its training was interrupted, from its records alone.

Every claim in the log begins an attempt, the next record that ends a lease or the next claim
ends it. A worker that died wrote no end: its attempt is lost, and ended with its last sign of
life. All functions are pure: records and heartbeats in, plain data out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise, takewhile

from runner.queue.job import Job, Stage
from runner.queue.protocol import Heartbeat


class Ending(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"  #: its stage is done
    PREEMPTED = "preempted"  #: it saved, and gave the job back
    LOST = "lost"  #: its machine or process died
    FAILED = "failed"  #: by the job's own fault
    CANCELLED = "cancelled"  #: by its user
    RUNNING = "running"  #: it has not


_ENDS = {
    "finish": Ending.FINISHED,
    "release": Ending.PREEMPTED,
    "fail": Ending.FAILED,
    "cancel": Ending.CANCELLED,
    "hold": Ending.PREEMPTED,
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
    saved_step: int  #: committed when it ended, or so far
    done_step: int | None  #: the newest that its heartbeats told of
    git_commit: str = ""  #: of the folder that it was started in; "" where there was none

    @property
    def lost_steps(self) -> int | None:
        """Optimizer updates that were done and must be repeated, at least; None: not known."""
        if self.stage is not Stage.TRAIN or self.ending is Ending.RUNNING:
            return None
        if self.ending in (Ending.FINISHED, Ending.PREEMPTED):
            return 0
        return None if self.done_step is None else max(0, self.done_step - self.saved_step)

    def seconds(self, now: datetime) -> float:
        """How long it took, or takes already."""
        return max(0.0, ((self.ended_at or now) - self.began_at).total_seconds())


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """Where a training stood when it was cut short: the next attempt goes on from there."""

    attempt: int  #: its number
    ending: Ending
    step: int  #: committed
    epoch: float  #: of that step; a whole number where the steps of an epoch aren't known


def attempts(
    records: Sequence[Job], beats: Mapping[int, Heartbeat], *, lost: bool = False
) -> list[Attempt]:
    """Return the attempts in a job's records, the oldest first.

    Args:
        records: of one job, by number.
        beats: the last heartbeat of each token, where there is one.
        lost: the newest owner shows no sign of life.
    """
    found = []
    for claim, later in _claims(records):
        mine = list(takewhile(lambda record: record.kind != "claim", later))
        taken_over = len(mine) < len(later) or any(record.kind == _GONE for record in mine)
        found.append(_attempt(claim, mine, beats.get(claim.token), taken_over or lost))
    return found


def _claims(records: Sequence[Job]) -> Iterator[tuple[Job, Sequence[Job]]]:
    """Return each claim with the records after it, up to and with the next claim."""
    places = [place for place, record in enumerate(records) if record.kind == "claim"]
    for place, following in pairwise([*places, len(records) - 1]):
        yield records[place], records[place + 1 : following + 1]


def _attempt(claim: Job, mine: Sequence[Job], beat: Heartbeat | None, gone: bool) -> Attempt:
    end = next((record for record in mine if record.kind in _ENDS), None)
    commits = [record for record in mine if record.kind == "commit"]
    newest = end or (commits[-1] if commits else claim)
    ending = _ENDS[end.kind] if end else Ending.LOST if gone else Ending.RUNNING
    signs = [newest.updated_at, *([beat.sent_at] if beat and beat.sent_at else [])]
    ended_at = end.updated_at if end else max(signs)
    return Attempt(
        number=claim.attempts,
        stage=claim.stage,
        host=str((claim.owner or {}).get("host", "?")),
        began_at=claim.updated_at,
        ended_at=None if ending is Ending.RUNNING else ended_at,
        ending=ending,
        reason=end.reason if end else "",
        first_step=claim.step,
        saved_step=newest.step,
        done_step=beat.step if beat and claim.stage is Stage.TRAIN else None,
        git_commit=str((claim.owner or {}).get("git_commit", "")),
    )


def interruptions(
    attempts: Iterable[Attempt], records: Sequence[Job], steps_per_epoch: float | None
) -> list[Interruption]:
    """Return where the training was cut short, in the order of the attempts."""
    epochs = {record.step: record.epoch for record in records}
    return [
        Interruption(
            attempt=one.number,
            ending=one.ending,
            step=one.saved_step,
            epoch=one.saved_step / steps_per_epoch
            if steps_per_epoch
            else float(epochs.get(one.saved_step, 0)),
        )
        for one in attempts
        if one.stage is Stage.TRAIN and one.ending not in (Ending.FINISHED, Ending.RUNNING)
    ]
