"""Asked to stop: finish the step, save, release the job. Asked twice: end (SIGHUP only asks once).

The handlers must be in place before TensorFlow is imported, since that takes seconds
and a process that is PID 1 without a handler would not even notice the signal.

A notice of the machine's (see `notices`) asks too, from a thread of its own. It and some signals
come with a deadline: what is saved must fit before it, and a last part of the time is kept for
releasing the job, since a job that is not released has to wait for its lease to expire.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from runner.engine.interrupt import Interrupter

#: signals that ask for an end with the state saved
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)
#: kept of the time that is left for the release: a log, a heartbeat and a record, with retries
RELEASE_SECONDS = 5.0
#: the same as a share, where little time is left
RELEASE_SHARE = 0.25


class StopRequest(Interrupter):
    """Whether this process was asked to stop, by what, and how much time it has.

    Args:
        say: told what was asked, for the user.
        grace_seconds: between SIGTERM or SIGHUP and SIGKILL, where that is known.

    Example:
        >>> stop = StopRequest()
        >>> stop.reason is None
        True
        >>> stop.set("a notice of the machine's")
        >>> stop.reason
        "a notice of the machine's"
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda _: None,
        *,
        grace_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.say = say  #: told what was asked; may be exchanged
        self.signal: int | None = None  #: the signal that asked, if one did
        self._grace = grace_seconds
        self._clock = clock
        self._deadline: float | None = None  # of the saving; after it comes the release
        self._save_wanted = False
        self.idle = False  #: no job is being worked on
        self.again = "'runner resume'"  #: the command that resumes what is saved, for people

    # ------------------------------------------------------------------ asking

    def set(self, reason: str, *, seconds_left: float | None = None) -> None:
        """Ask for a stop, from any thread; the first reason stays, and the nearest deadline.

        Args:
            reason: who asks, and why.
            seconds_left: until the machine is gone; None where nobody knows.
        """
        if self.reason is None:
            self.reason = reason
        self._shorten(seconds_left)
        self.interrupt(self.reason)

    def save_soon(self) -> None:
        """Ask for a checkpoint now, whatever is due; the work goes on."""
        self._save_wanted = True

    def take_save_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        wanted, self._save_wanted = self._save_wanted, False
        return wanted

    def _shorten(self, seconds_left: float | None) -> None:
        if seconds_left is None:
            return
        left = max(seconds_left, 0.0)
        deadline = self._clock() + left - min(RELEASE_SECONDS, RELEASE_SHARE * left)
        self._deadline = min(deadline, self._deadline or deadline)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that may be spent on saving; None where nothing limits them."""
        return None if self._deadline is None else self._deadline - self._clock()

    @property
    def doing(self) -> str:
        """What follows a request to stop, for people."""
        if self.idle:
            return "stopping"
        return "releasing the job" if self.at_once else "saving and releasing the job"

    def call_last(self) -> None:
        """Interrupt the main thread if the time for saving is over; to be called now and then."""
        left = self.seconds_left
        if left is not None and left <= 0:
            self.interrupt_late(self.reason or "asked to stop")

    # ------------------------------------------------------------------ signals

    def install(self) -> None:
        """Catch the stop signals of this process (only the main thread may)."""
        super().install()
        for number in SIGNALS:
            # `nohup` and background jobs of a plain shell ignore some signals on purpose
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            if name != "SIGHUP":  # the kernel, a shell and a terminal each report a hangup
                _leave_at_once(number, name, self.again)
            return
        self.signal = number
        self.reason = self.reason or name
        if name != "SIGINT":
            self._shorten(self._grace)
        doing = self.doing
        # a closed terminal, or one that is just being written to, must not fail what is to be saved
        with contextlib.suppress(OSError, RuntimeError):
            self.say(f"{name}: {doing}; once more to leave at once")
        if self.at_once:
            self.raise_if_due(name)


def _leave_at_once(number: int, name: str, again: str) -> None:
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a cursor that was hidden
    words = f"{name} again, leaving at once; {again} continues from what is saved"
    os.write(sys.stderr.fileno(), f"{shown}\nrunner: {words}\n".encode())
    os._exit(128 + number)
