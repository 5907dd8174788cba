"""Asked to stop: finish the step, save, let go. Asked twice: go at once (SIGHUP only asks once).

The handlers must be in place before TensorFlow is imported, since that takes seconds
and a process that is PID 1 without a handler would not even notice the signal.

A notice of the machine's (see `notices`) asks too, from a thread of its own. It and some signals
come with a deadline: what is saved must fit before it, and a last part of the time is kept for
letting the job go, since a job that is not let go has to wait for its lease to lapse.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from runner.errors import PreemptedError, SpecError

#: signals that ask for an end with the state saved
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)
#: kept of the time that is left for letting go: a log, a heartbeat and a record, with retries
RELEASE_SECONDS = 5.0
#: the same as a share, where little time is left
RELEASE_SHARE = 0.25


class _Interrupted(BaseException):
    """Ends what runs in `interrupting`; TensorFlow's tracing goes on after any Exception."""


class StopRequest:
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
        self.say = say  #: told what was asked; may be exchanged
        self._grace = grace_seconds
        self._clock = clock
        self._caught: list[int] = []  # signals that this object handles
        self._inside = False  # `interrupting`
        self._interruption: _Interrupted | None = None  # raised in there
        self._nudged = ""  # a signal is ours, not somebody's, and this is why
        self._deadline: float | None = None  # of the saving; after it comes the letting go
        self._last_call = False
        self._save_wanted = False
        self.reason: str | None = None  #: None while the work may go on
        self.signal: int | None = None  #: the signal that asked, if one did
        self.idle = False  #: no job is being worked on
        self.again = "'runner resume'"  #: goes on from what is saved, for people
        self.at_once = False  #: there is nothing to save: a signal raises where it arrives

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
        if self.at_once:
            self._nudge(self.reason)

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
        return "letting go" if self.at_once else "saving and letting go"

    # ------------------------------------------------------------------ interrupting

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal end what is in here with PreemptedError, until `at_once` is taken back.

        Importing, building and tracing take half a minute, in which nobody asks for the reason,
        and an evaluation has nothing to save at all. When the time for saving is over, it is
        raised wherever the main thread is in here.
        """
        self.at_once = self._inside = True
        try:
            if self.reason is not None:  # asked since the job was claimed
                self._raise_if_inside(self.reason)
            yield
        except _Interrupted as error:
            raise PreemptedError(str(error)) from None
        except (ImportError, SystemError, SpecError) as error:
            if self._interruption is None:
                raise
            # an extension module that is being imported makes one of these of ours
            raise PreemptedError(str(self._interruption)) from error
        finally:
            self._interruption = None
            self.at_once = self._inside = False

    def interrupt(self, why: str) -> None:
        """End what runs in `interrupting` if it has nothing to save; the work itself goes on."""
        if self.at_once:
            self._nudge(why)

    def call_last(self) -> None:
        """Interrupt the main thread if the time for saving is over; to be called now and then."""
        left = self.seconds_left
        if left is not None and left <= 0 and self._inside and not self._last_call:
            self._last_call = True
            self._nudge(self.reason or "asked to stop")

    def _nudge(self, why: str) -> None:
        """Let the main thread run our handler, even if it waits for a lock or for the network."""
        main = threading.main_thread()
        if not self._caught or not self._inside or main.ident is None:
            return
        self._nudged = why
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main.ident, self._caught[0])
        else:
            signal.raise_signal(self._caught[0])

    def install(self) -> None:
        """Catch the stop signals of this process (only the main thread may)."""
        for number in SIGNALS:
            # `nohup` and background jobs of a plain shell ignore some signals on purpose
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
                self._caught.append(number)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._nudged:
            # what else arrived at this moment is no second wish: it asks for what is being done
            why, self._nudged = self._nudged, ""
            self._raise_if_inside(why)
            return
        name = signal.Signals(number).name
        if self.signal is not None:
            if name == "SIGHUP":
                return  # the kernel, a shell and a terminal each say that somebody is gone
            shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a cursor that was hidden
            words = f"{name} again, leaving at once; {self.again} goes on from the last checkpoint"
            os.write(sys.stderr.fileno(), f"{shown}\nrunner: {words}\n".encode())
            os._exit(128 + number)
        self.signal = number
        self.reason = self.reason or name
        if name != "SIGINT":
            self._shorten(self._grace)
        at_once, doing = self.at_once, self.doing
        # a closed terminal, or one that is just being written to, must not fail what is to be saved
        with contextlib.suppress(OSError, RuntimeError):
            self.say(f"{name}: {doing}; once more to leave at once")
        if at_once:
            self._raise_if_inside(name)

    def _raise_if_inside(self, why: str) -> None:
        if self.at_once:
            self.at_once = False
            msg = f"stopped ({why}) before this attempt had anything new to save; nothing is lost."
            self._interruption = _Interrupted(msg)
            raise self._interruption
        if self._last_call and self._inside:
            self._inside = False  # once is enough: what follows is tidying up
            msg = f"stopped ({why}); no time was left to save more than was committed."
            self._interruption = _Interrupted(msg)
            raise self._interruption
