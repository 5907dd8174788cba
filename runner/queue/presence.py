"""What each worker says of itself: what it is, and which jobs it left to others, and why.

One small object a worker, for people alone: nothing is decided by it, so a minute may pass unsaid.
Whether a worker that has a job lives is told by its heartbeat.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import convert

from runner.errors import StoreError
from runner.queue.drain import file_of, name_of
from runner.queue.owner import is_alive
from runner.queue.record import line
from runner.store.base import Store
from runner.store.log import encode, parse

FOLDER = "workers/seen/"
LEFT = "left for another machine: "  #: begins why a job is left that a worker can't run
RENEW_SECONDS = 60.0  #: between two signs of a worker, at least
FORGET = timedelta(days=7)  #: after which the object of a worker that died is removed
MOST_LEFT = 50  #: jobs that a worker names


@dataclass(frozen=True, kw_only=True)
class Presence:
    """A worker, as it described itself."""

    owner: Mapping[str, Any]  #: its process, as claims name it
    sent_at: datetime  #: by its clock
    gpus: tuple[str, ...] = ()  #: "NVIDIA L4, 23034 MiB"
    labels: tuple[str, ...] = ()
    version: str = ""  #: of runner
    left: Mapping[str, str] = field(default_factory=dict)  #: jobs that it can't run here, and why
    ended: bool = False  #: it works no more; what it left is still to be known

    @property
    def worker(self) -> str:
        """Its name for people."""
        return line(name_of(self.owner))

    @property
    def lives(self) -> bool:
        """Whether it has not ended, as far as is known here."""
        return not self.ended and is_alive(self.owner) is not False

    @property
    def node(self) -> str:
        """What an engine calls its machine."""
        return line(str(self.owner.get("node", ""))[:100])


def tell(store: Store, presence: Presence) -> None:
    """Write it, in place of what the worker said before. Raises StoreError."""
    said = {**asdict(presence), "sent_at": presence.sent_at.isoformat()}
    said["left"] = dict(list(presence.left.items())[:MOST_LEFT])
    store.put(_key(presence.worker), encode(said))


def remove(store: Store, worker: str) -> None:
    """Forget a worker that ends. Raises StoreError."""
    store.delete(_key(worker))


def everyone(store: Store) -> list[Presence]:
    """Return all workers that have not ended, as far as is known here. Raises StoreError."""
    return [one for one in known(store) if one.lives]


def tidy(store: Store) -> None:
    """Remove what workers left behind that ended: here, or long ago. Raises StoreError."""
    for one in known(store):
        if is_alive(one.owner) is False or datetime.now(UTC) - one.sent_at > FORGET:
            remove(store, one.worker)


def known(store: Store) -> list[Presence]:
    """Return the workers, and those that ended and left jobs to others. Raises StoreError."""
    found = map(_parsed, store.read_many(store.list(FOLDER)))
    return [one for one in found if one is not None]


def _key(worker: str) -> str:
    return f"{FOLDER}{file_of(worker)}.json"


def _parsed(data: bytes | StoreError | None) -> Presence | None:
    """Read what a bucket holds; whatever else lies there is no worker."""
    if not isinstance(data, bytes):
        return None
    try:
        one = convert(parse(data, "worker"), Presence)
        return replace(
            one,
            sent_at=one.sent_at.astimezone(UTC),
            gpus=tuple(line(gpu[:100]) for gpu in one.gpus),
            labels=tuple(line(label[:100]) for label in one.labels),
            version=line(one.version[:40]),
            left={line(job[:63]): line(why[:500]) for job, why in one.left.items()},
        )
    except (StoreError, ValueError, OverflowError):
        return None
