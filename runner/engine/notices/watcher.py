"""Listens for notices while the work goes on, and hands them to the stop request.

Which machine this is, is found out in threads that nobody waits for. Nothing is said unless there
is something to say: a service that does not answer is no concern of the user's.

An end that is far off is no reason to stop: a checkpoint is made at once, and the work goes on
until `LEAD_SECONDS` are left, or until the notice is taken back. The same for a mere risk.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner.engine.notices.aws import Spot
from runner.engine.notices.azure import ScheduledEvents
from runner.engine.notices.base import Notice, Source
from runner.engine.notices.gce import Maintenance, Preempted
from runner.engine.preemption import StopRequest
from runner.engine.session import Session
from runner.errors import SpecError

POLL_SECONDS = 2.0  #: between two looks; the shortest notice is half a minute
#: before a service that did not answer is looked for again: it may begin after we did
AGAIN_SECONDS = (5.0, 60.0)
#: before the end the work is stopped. Most checkpoints fit in; of one that does not, the steps
#: since the notice are repeated, which was saved for
LEAD_SECONDS = 60.0
TICK_SECONDS = 0.25  #: between two looks at the time that is left


def sources(environ: Mapping[str, str] = os.environ) -> list[Source]:
    """All that could give notices; none where RUNNER_NOTICES is "off".

    Raises:
        SpecError: it is neither "on" nor "off".
    """
    named = environ.get("RUNNER_NOTICES", "").lower()
    if named in ("off", "0", "false", "no"):
        return []
    if named not in ("", "on", "1", "true", "yes"):
        raise SpecError(f"RUNNER_NOTICES received {named!r}; expected on or off")
    return [Preempted(environ), Maintenance(environ), Spot(environ), ScheduledEvents(environ)]


@contextlib.contextmanager
def watching(
    stop: StopRequest,
    say: Callable[[str], None] = lambda _: None,
    *,
    session: Session | None = None,
    among: Sequence[Source] | None = None,
    poll_seconds: float = POLL_SECONDS,
    lead_seconds: float = LEAD_SECONDS,
) -> Iterator[None]:
    """Listen for notices in here.

    Args:
        stop: told that the work is to stop.
        say: told what was announced, for the user.
        session: whose end is a reason to stop, known beforehand.
        among: what may give notices; all, unless said otherwise.
        poll_seconds: between two looks.
        lead_seconds: before a known end the work is stopped.
    """
    closing = threading.Event()
    for source in sources() if among is None else among:
        watcher = _Watcher(
            source=source,
            stop=stop,
            say=say,
            closing=closing,
            poll_seconds=poll_seconds,
            lead_seconds=lead_seconds,
        )
        threading.Thread(target=watcher.run, name=source.name, daemon=True).start()
    threading.Thread(target=_tick, args=(stop, session, closing), daemon=True).start()
    try:
        yield
    finally:
        closing.set()  # nobody waits for a request under way


def _tick(stop: StopRequest, session: Session | None, closing: threading.Event) -> None:
    while not closing.wait(TICK_SECONDS):
        if session is not None:
            session.end_if_over(stop)
        stop.call_last()


@dataclass(kw_only=True)
class _Watcher:
    """Asks one source."""

    source: Source
    stop: StopRequest
    say: Callable[[str], None]
    closing: threading.Event
    poll_seconds: float
    lead_seconds: float
    heeded: str = ""  #: what was announced and is not an end yet

    def run(self) -> None:
        """Ask until the work is over or is to stop."""
        pauses = iter(AGAIN_SECONDS)
        while not self.source.is_here():
            pause = next(pauses, None)
            if pause is None or self.closing.wait(pause):
                return
        while not self.closing.is_set():
            began = time.monotonic()
            try:
                notice = self.source.look()
            except OSError:
                notice = None  # a service that stumbles says nothing
            else:
                self.heeded = self.heeded if notice else ""
            if notice is not None and not self.closing.is_set() and self._heed(notice):
                return
            # where a request was held until something changed, the next may follow
            self.closing.wait(max(0.1, self.poll_seconds - (time.monotonic() - began)))

    def _heed(self, notice: Notice) -> bool:
        """Do what the notice asks for; whether that was the end."""
        left = notice.seconds_left
        if notice.certain and (left is None or left <= self.lead_seconds):
            text = notice.text if left is None else f"{notice.text}, {left:.0f} s left"
            self.say(f"{text}: {self.stop.doing}")
            self.stop.set(text, seconds_left=left)
            return True
        if notice.text != self.heeded:
            self.heeded = notice.text
            when = "" if left is None else f" in {left / 60:.0f} minutes"
            self.say(f"{notice.text}{when}: saving now, going on")
            self.stop.save_soon()
        return False
