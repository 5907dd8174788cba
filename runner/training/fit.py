"""A running `model.fit`: what it works with, and the callbacks that are not ours.

Here as a job runs it, by public arguments alone: a list of callbacks of our own (`loop.Loop`) and
`initial_epoch`. `takeover` has what stands for them in a fit that somebody else has called.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.checkpoint.manifest import Position
from runner.training.data.batches import Batches


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fit of ours."""

    epochs: int
    initial_epoch: int
    batches: Batches
    validation: Batches | None = None

    @property
    def steps(self) -> int | None:
        """Steps of an epoch, or None where nobody knows yet."""
        return len(self.batches)

    def dataset(self) -> Any:
        """Return the training data as a tf.data pipeline, for tracing; None if they are none."""
        return self.batches.get_tf_dataset()

    def validation_dataset(self) -> Any:
        """Return the data of the validation that is running, likewise."""
        return self.validation.get_tf_dataset() if self.validation is not None else None

    def validation_is_plain(self) -> bool:
        """Return whether taking a batch for the validation runs none of the program's code."""
        return True

    def begin_at(self, epoch: int | None) -> None:
        """Let the fit begin at this epoch, as `initial_epoch` says already; None: it has begun."""

    def is_calling(self) -> bool:
        """Return whether this fit, not a later one, calls the caller of this method."""
        return True


def of_batches(arguments: Mapping[str, Any], *, epochs: int, initial_epoch: int) -> Fit | None:
    """Return the fit that these arguments make, or None where its data are not ours alone."""
    batches, validation = arguments["x"], arguments.get("validation_data")
    if (
        arguments.keys() <= {"x", "validation_data"}
        and isinstance(batches, Batches)
        and isinstance(validation, Batches | None)
        and not (validation and validation.shuffle)
    ):
        return Fit(
            epochs=epochs, initial_epoch=initial_epoch, batches=batches, validation=validation
        )
    return None


class Hooks:
    """The callbacks of a fit that are not ours, called where we see fit.

    Args:
        callbacks: a Keras CallbackList.
        ours: the callback in it that is not anybody's state, if there is one.
    """

    def __init__(self, callbacks: Any, ours: Any = None) -> None:
        self.callbacks = callbacks
        self.ours = ours

    @property
    def others(self) -> list[Any]:
        """All callbacks but ours."""
        return [c for c in self.callbacks.callbacks if c is not self.ours]

    def call(self, name: str, *args: Any) -> None:
        """Call a hook of all other callbacks."""
        getattr(self.callbacks, name)(*args)


def has_ended(position: Position, epochs: int) -> bool:
    """Return whether no epoch is left after this position."""
    return position.epoch >= epochs or (position.stop and position.step == 0)


def is_beyond(position: Position, epochs: int) -> bool:
    """Return whether this position comes after the end of a fit of so many epochs."""
    return (position.epoch, position.step) > (epochs, 0)


def first_epoch(position: Position, epochs: int) -> int:
    """Return the epoch at which a fit resumes; one that has ended has none left."""
    return max(epochs, 1) if has_ended(position, epochs) else position.epoch
