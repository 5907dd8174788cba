"""How much time a training has, and whether to save before it is due; told from outside."""

from typing import Protocol


class Urgency(Protocol):
    """What a machine that may go has to say."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds that may be spent on saving; None where nothing limits them."""

    def take_save_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""


class NoHurry:
    """Of a machine that stays."""

    seconds_left: float | None = None

    def take_save_request(self) -> bool:
        """Never."""
        return False
