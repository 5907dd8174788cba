"""The one port between a stage and whoever runs it: a worker's attempt, or a program's callback."""

import logging
from typing import Protocol

from runner.commit import Commit
from runner.queue.goodput import Spent
from runner.training.progress import Progress

logger = logging.getLogger(__name__)


class Host(Protocol):
    """Who runs a stage. Without a method of its own, a host asks for nothing."""

    def should_stop(self) -> str | None:
        """Return why to save and stop now, or None. Asked after each step.

        Raises:
            LeaseLostError: the job is another worker's.
        """
        return None

    @property
    def seconds_left(self) -> float | None:
        """Seconds that may be spent on saving; None where nothing limits them."""
        return None

    @property
    def spent(self) -> Spent:
        """The stopwatch of what the time goes into; without an owner nobody reads it."""
        return Spent()

    def take_save_request(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        return False

    def progressed(self, progress: Progress) -> None:  # noqa: ARG002 - nobody looks
        """Take a look at the running stage, several times a second at most."""
        return

    def note(self, text: str) -> None:
        """Report what people should know."""
        logger.warning(text)

    def commit(self, commit: Commit) -> object:  # noqa: ARG002 - nobody commits here
        """Let checkpoints count whose data is written.

        Raises:
            LeaseLostError: none ever will.
        """
        return None


class Alone(Host):
    """Nobody: the machine stays, and nobody looks."""
