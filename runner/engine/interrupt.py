"""How the main thread is interrupted while it has nothing to save, or no time left to save.

Importing, building and tracing take half a minute, in which nobody asks whether to stop, and an
evaluation has nothing to save at all. Waits for a lock or for the network are ended too: any
thread sends the main thread a signal whose default is to be ignored, and its handler raises.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from runner.errors import PreemptedError, SpecError

#: what wakes the main thread; to everybody else it means nothing
_NUDGE: int = getattr(signal, "SIGURG", 0)
_AGAIN_SECONDS = 0.01


class _Interrupted(BaseException):
    """Ends what runs in `interrupting`; TensorFlow's tracing goes on after any Exception."""


class Interrupter:
    """Ends what the main thread does in `interrupting`."""

    def __init__(self) -> None:
        self.reason: str | None = None  #: why to stop; None while the work may continue
        self.at_once = False  #: there is nothing to save: a request to stop interrupts
        self._too_late = False  # there is no time left to save
        self._inside = False  # `interrupting`
        self._installed = False
        self._why = ""  # of an interruption under way
        self._hook = sys.__unraisablehook__
        self._raised: _Interrupted | None = None
        self._dropped = False  # what was raised; to be raised again

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a request end what is in here with PreemptedError, until `at_once` is taken back.

        When the time for saving is over, it is raised wherever the main thread is in here.
        """
        self.at_once = self._inside = True
        try:
            if self.reason is not None:  # asked since the job was claimed
                self.raise_if_due(self.reason)
            yield
        except _Interrupted as error:
            raise PreemptedError(str(error)) from None
        except (ImportError, SystemError, SpecError) as error:
            if self._raised is None:
                raise
            # an extension module that is being imported makes one of these of ours
            raise PreemptedError(str(self._raised)) from error
        finally:
            self._raised = None
            self.at_once = self._inside = False

    def interrupt(self, why: str) -> None:
        """End what runs in `interrupting` if it has nothing to save; the work itself continues."""
        if self.at_once:
            self._nudge(why)

    def interrupt_late(self, why: str) -> None:
        """End what runs in `interrupting`, once, although it may have something to save."""
        if self._inside and not self._too_late:
            self._too_late = True
            self._nudge(why)

    def install(self) -> None:
        """Be ready to interrupt the main thread, which alone may call this."""
        if _NUDGE:
            signal.signal(_NUDGE, self._nudged)
            self._installed = True
            self._hook, sys.unraisablehook = sys.unraisablehook, self._again

    def _again(self, dropped: "sys.UnraisableHookArgs") -> None:
        """Interrupt once more: Python drops what is raised in finalizers and weak references."""
        if not isinstance(dropped.exc_value, _Interrupted):
            self._hook(dropped)
            return
        self._inside, self.at_once = True, not self._too_late
        self._dropped = True
        threading.Thread(target=self._insist, daemon=True).start()

    def _insist(self) -> None:
        time.sleep(_AGAIN_SECONDS)
        while self._dropped:
            self._nudge(self._why)
            time.sleep(_AGAIN_SECONDS)

    def _nudged(self, _: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is Interrupter._again.__code__:
                return  # what is raised in there is lost, too
            frame = frame.f_back
        self._dropped = False
        if self._why:  # else somebody else's signal
            self.raise_if_due(self._why)

    def _nudge(self, why: str) -> None:
        main = threading.main_thread().ident
        if self._installed and main is not None:
            self._why = why
            signal.pthread_kill(main, _NUDGE)

    def raise_if_due(self, why: str) -> None:
        """End what runs in `interrupting`, in the main thread, if there is nothing or no time."""
        if self.at_once:
            self.at_once = False
            words = " before this attempt had anything new to save; nothing is lost."
        elif self._inside and self._too_late:
            self._inside = False  # once is enough: what follows is tidying up
            words = "; no time was left to save more than was committed."
        else:
            return
        self._raised = _Interrupted(f"stopped ({why}){words}")
        raise self._raised
