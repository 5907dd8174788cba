"""Asked to stop: finish the step, save, let go. Asked twice: go at once.

The handlers must be in place before TensorFlow is imported, since that takes seconds
and a process that is PID 1 without a handler would not even notice the signal.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from runner.errors import PreemptedError

#: signals that ask for an end with the state saved
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)


class StopRequest:
    """Whether this process was asked to stop, and by what.

    Example:
        >>> stop = StopRequest()
        >>> stop.reason is None
        True
        >>> stop.set("a notice of the machine's")
        >>> stop.reason
        "a notice of the machine's"
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self._say = say
        self.reason: str | None = None  #: None while the work may go on
        self.signal: int | None = None  #: the signal that asked, if one did
        self.at_once = False  #: there is nothing to save: a signal raises where it arrives

    def set(self, reason: str) -> None:
        """Ask for a stop; the first reason stays."""
        self.reason = self.reason or reason

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal raise PreemptedError in here, until `at_once` is taken back.

        Importing, building and tracing take half a minute, in which nobody asks for the reason,
        and an evaluation has nothing to save at all.
        """
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False

    def install(self) -> None:
        """Catch the stop signals of this process (only the main thread may)."""
        for number in SIGNALS:
            # `nohup` and background jobs of a plain shell ignore some signals on purpose
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            os.write(sys.stderr.fileno(), f"\nrunner: {name} again, leaving at once\n".encode())
            os._exit(128 + number)
        self.signal = number
        self.set(name)
        if self.at_once:
            self.at_once = False
            self._say(f"{name}: letting go; once more to leave at once")
            msg = f"stopped ({name}) before this attempt had anything new to save; nothing is lost."
            raise PreemptedError(msg)
        self._say(f"{name}: saving and letting go; once more to leave at once")
