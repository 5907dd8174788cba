"""Where in the data a training stands, for every kind of data that fit takes.

Our own `Batches` can be sought exactly. For other data we say once, clearly, what can be
vouched for, and resume at the last point at which it can.
"""

from collections.abc import Callable
from typing import Any, Protocol

from runner.errors import TrainingError
from runner.training.data import Batches
from runner.training.private import Fit


class Source(Protocol):
    """The training data of one fit."""

    mid_epoch: bool  #: a position within an epoch can be found again

    def seek(self, epoch: int, step: int) -> None:
        """Let the epoch that begins now begin at this step."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what of the data decides over bits, and is cheap to know."""


def source_of(fit: Fit, *, warn: Callable[[str], None]) -> Source:
    """Return the source for the data that fit was given."""
    adapter = fit.epoch_iterator.data_adapter
    if isinstance(adapter, Batches):
        if fit.class_weight is not None:
            raise TrainingError(
                "fit(class_weight=...) has no effect on Batches: give class_weight to Batches."
            )
        return _Seekable(adapter)
    return _EpochsOnly(adapter, warn)


class _Seekable:
    mid_epoch = True

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def seek(self, epoch: int, step: int) -> None:
        self._batches.seek(epoch, step)

    def fingerprint(self) -> dict[str, Any]:
        batches = self._batches
        order = f"seed {batches.seed}" if batches.shuffle else "in order"
        amount = f"{batches.examples} examples x {batches.repeat}"
        return {"data": f"{amount}, batches of {batches.batch_size}, {order}"}


class _EpochsOnly:
    mid_epoch = False

    def __init__(self, adapter: Any, warn: Callable[[str], None]) -> None:
        self._adapter = adapter
        warn(
            f"the data ({type(adapter).__name__}) can't be sought exactly: a resume begins at an "
            "epoch's beginning. Use runner.Batches for a resume at any step, bit for bit."
        )

    def seek(self, epoch: int, step: int) -> None:
        if step:
            raise TrainingError(
                f"the checkpoint is within epoch {epoch}, and this data can't be sought to step "
                f"{step}. Give the data as runner.Batches, as before."
            )

    def fingerprint(self) -> dict[str, Any]:
        return {"data": type(self._adapter).__name__}
