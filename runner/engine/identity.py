"""A worker, as claims name it and as `runner status --workers` shows it."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from threading import Thread
from typing import Any

from runner.engine.requirements import Looking
from runner.errors import StoreError
from runner.queue import presence
from runner.queue.drain import name_of
from runner.queue.presence import Presence
from runner.queue.queue import utc_now
from runner.store.base import Store
from runner.store.steps import boot_clock

LAST_SECONDS = 2.0  #: that the end of a worker waits for a bucket to forget it


class Identity:
    """A worker.

    Args:
        store: where it is shown.
        owner: its process.
        looking: at its machine.
    """

    def __init__(self, store: Store, owner: Mapping[str, Any], looking: Looking) -> None:
        self._store = store
        self._owner = dict(owner)
        self._looking = looking
        self._left: dict[str, str] | None = None  # to be told
        self._told_at = 0.0
        self.name = name_of(owner)

    def lacks(self, requirements: Mapping[str, Any] | None) -> str:
        """Return what a job needs and this machine does not have, see `Machine`."""
        return self._looking.machine().lacks(requirements) if requirements else ""

    def claimant(self, kills: int | None, devices: int | str = 1) -> dict[str, Any]:
        """Name this worker as an owner, with what others want to know of it.

        Args:
            kills: of processes here for lack of memory, so far.
            devices: that the job asks for, or "all".
        """
        cards = len(self._looking.machine().gpus)
        used = min(cards, devices) if isinstance(devices, int) else cards
        return {
            **self._owner,
            "git_commit": self._looking.git_commit(),
            **({"gpus": used} if used else {}),
            **({"oom_kills": kills} if kills is not None else {}),
        }

    def unused(self) -> str:
        """Say that a machine has more GPUs than a job uses by itself; "" if it has not."""
        cards = len(self._looking.machine().gpus)
        more = (
            "'runner work --each-gpu' starts a worker for each, training.devices gives a job more"
        )
        return f"{cards} GPUs are here, and a job uses one: {more}" if cards > 1 else ""

    def tell(self, left: Mapping[str, str] | None = None) -> None:
        """Show this worker, and the jobs that it left (None: as before), at once or in a minute.

        That it can't be written harms nothing.
        """
        now, first = boot_clock(), self._left is None
        self._left = left = dict(self._left or {} if left is None else left)
        if not first and now - self._told_at < presence.RENEW_SECONDS:
            return
        self._told_at = now
        with suppress(StoreError):
            if first:
                presence.tidy(self._store)
            presence.tell(self._store, self._presence(left))

    def _presence(self, left: Mapping[str, str], *, ended: bool = False) -> Presence:
        machine = self._looking.machine()
        return Presence(
            owner=self._owner,
            sent_at=utc_now(),
            gpus=tuple(f"{gpu.name}, {gpu.memory_mib} MiB" for gpu in machine.gpus),
            labels=tuple(sorted(machine.labels)),
            version=_version(),
            left=left,
            ended=ended,
        )

    def leave(self) -> None:
        """Show it no more, but for why it left jobs. A bucket that hangs does not hold it up."""
        left = self._left
        if left is None:
            return

        def end() -> None:
            with suppress(StoreError):
                if left:
                    presence.tell(self._store, self._presence(left, ended=True))
                else:
                    presence.remove(self._store, self.name)

        ending = Thread(target=end, daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)


def _version() -> str:
    try:
        return version("keras-runner")
    except PackageNotFoundError:
        return ""
