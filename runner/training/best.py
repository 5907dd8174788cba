"""Which epoch was the best so far, as remembered in every checkpoint.

The best epoch's checkpoint is saved for sure and marked in the job's log; the value it reached
travels in the checkpoints, so that a kill forgets no best epoch and invents none.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from runner.errors import SpecError

HIGHER = ("acc", "top_", "auc", "precision", "recall", "f1", "iou", "r2", "cosine")  #: in its name


class Best:
    """Follows one metric over the epochs.

    Args:
        monitor: name of the metric, "val_top_1".
        mode: "max", "min", or "auto": max for accuracies and the like, else min.

    Example:
        >>> best = Best("val_top_1")
        >>> [best.improved(e, {"val_top_1": v}) for e, v in enumerate([0.5, 0.4, 0.6])]
        [True, False, True]
    """

    def __init__(self, monitor: str, mode: str = "auto") -> None:
        if mode not in ("auto", "min", "max"):
            raise SpecError(f"mode {mode!r} of the best checkpoint. Known: auto, min, max.")
        if mode == "auto":
            mode = "max" if any(word in monitor.lower() for word in HIGHER) else "min"
        self.monitor = monitor
        self.mode = mode
        self.value: float | None = None  #: the best so far
        self.epoch: int | None = None  #: counted from 0
        self._missed = False

    def improved(
        self, epoch: int, logs: Mapping[str, Any], warn: Callable[[str], None] = lambda _: None
    ) -> bool:
        """Take note of an epoch's metrics; whether it is the best so far."""
        if self.monitor not in logs:
            if not self._missed:
                self._missed = True
                warn(
                    f"no best checkpoint: there is no metric {self.monitor!r}. "
                    f"Known: {', '.join(sorted(logs))}."
                )
            return False
        value = float(logs[self.monitor])
        if math.isnan(value) or not self._beats(value):
            return False
        self.value, self.epoch = value, epoch
        return True

    def _beats(self, value: float) -> bool:
        if self.value is None:
            return True
        return value > self.value if self.mode == "max" else value < self.value

    def to_json(self) -> dict[str, Any]:
        """Return what has to survive."""
        value = None if self.value is None else self.value.hex()
        return {"monitor": self.monitor, "mode": self.mode, "value": value, "epoch": self.epoch}

    def from_json(self, saved: Mapping[str, Any] | None) -> None:
        """Take over what has survived, if it was about the same metric."""
        if saved and (saved["monitor"], saved["mode"]) == (self.monitor, self.mode):
            self.value = None if saved["value"] is None else float.fromhex(saved["value"])
            self.epoch = saved["epoch"]
