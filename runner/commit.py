"""What a training commits. Job logs, the drop-in's folder and checkpoints all speak of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Commit:
    """From the record on that takes this over, these checkpoints count. Their data is written.

    A new field of a commit is one here, and one of the record that keeps it.
    """

    step: int  #: of the newest checkpoint, in optimizer updates
    epoch: int  #: of the newest checkpoint
    checkpoints: Sequence[Mapping[str, Any]] = ()  #: references to all that stay, the newest first
    best: Mapping[str, Any] | None = None  #: reference to the best one
    notes: Sequence[str] = ()  #: what a reader of the results should know
    metrics: Mapping[str, Any] | None = None  #: of the newest epoch; None: as before
    startup_seconds: float | None = None  #: from the claim to the first step; None: as before
    time: Mapping[str, float] | None = None  #: seconds by cause until the newest state was taken

    def changes(self) -> dict[str, Any]:
        """Return the fields that a record takes over."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return {**known, "best": self.best}
