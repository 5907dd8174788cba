"""How fast a stage goes, when it will end, and whether it still moves at all."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from runner.store import receiving
from runner.training.progress import Progress

STALLED_LEAST = 60.0  #: seconds of silence that mean nothing yet
STALLED_STEPS = 20  #: times the usual time between two signs of progress
_FIRST_SIGNS = 3  #: until the usual time is known
_REMEMBERED = 20


class Pace:
    """How fast a stage goes; what traces a graph is not counted: first step, first validation."""

    def __init__(self) -> None:
        self.epochs = 0  #: that the training is to have, as last reported
        self.moved = False  #: a training step of this attempt is done
        self._first: int | None = None
        self._began: tuple[float, int] | None = None
        self._validated: bool | None = None  # None: not yet; False: for the first time, just now
        self._last: tuple[float, int] | None = None  # of the stage's own steps alone
        self._speed: float | None = None

    def timed(self, progress: Progress) -> Progress:
        """Return this look with the time to the end, and the steps per second."""
        if progress.stage == receiving.STAGE:
            return progress
        eta = self.eta_seconds(progress)
        begun, evaluates = self._began is not None, progress.stage == "evaluate"
        self.moved = begun and not evaluates
        now, step = time.monotonic(), progress.step if evaluates else progress.global_step
        if progress.stage != "validate" and begun:
            if self._last is not None and step > self._last[1]:
                newest = (step - self._last[1]) / (now - self._last[0])
                self._speed = 0.7 * self._speed + 0.3 * newest if self._speed else newest
            self._last = (now, step)
        else:
            self._last = None  # a validation's time is no training speed
        return replace(progress, eta_seconds=eta, steps_per_second=self._speed)

    def eta_seconds(self, progress: Progress) -> float | None:
        """Seconds to the end, if no callback ends it before; None while unknown."""
        if progress.stage == receiving.STAGE:
            return progress.eta_seconds if progress.step < progress.steps else None
        self.epochs = progress.epochs
        training = progress.stage != "evaluate"
        done = progress.global_step if training else progress.step
        total = progress.epochs * progress.steps if training else progress.steps
        if self._first is None:
            self._first = done
        if self._began is None:
            if done > self._first:
                self._began = (time.monotonic(), done)
            return None
        began_at, first = self._began = self._counted_from(progress.stage, done, self._began)
        if done <= first or not total:
            return None
        return max(0.0, (total - done) * (time.monotonic() - began_at) / (done - first))

    def _counted_from(self, stage: str, done: int, began: tuple[float, int]) -> tuple[float, int]:
        """Return since when steps are counted: anew behind the first validation."""
        if stage == "validate":
            self._validated = self._validated or False
        elif self._validated is False:
            self._validated = True
            return time.monotonic(), done
        return began


class Vigil:
    """Whether a stage still moves, by its own pace.

    Time is counted in beats of the heartbeat, each at most twice as long as it should be: a
    process that was frozen, or a laptop that slept, is not called stalled when it goes on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._signs: deque[float] = deque(maxlen=_REMEMBERED)  # seconds between two
        self._where: object = None
        self._moved_at: float | None = None
        self._beat_at = clock()
        self.silent_seconds = 0.0  #: since the last sign of life, up to the last beat

    def moved(self, progress: Progress) -> None:
        """A sign of life; one that shows progress tells of the stage's pace."""
        self.silent_seconds = 0.0
        where = (progress.stage, progress.global_step, progress.step)
        if where == self._where or progress.stage == receiving.STAGE:
            return
        now = self._clock()
        if self._moved_at is not None:
            self._signs.append(now - self._moved_at)
        self._where, self._moved_at = where, now

    def beat(self, interval_seconds: float, *, excused: bool = False) -> None:
        """Count the time since the last beat, unless something else explains the silence."""
        now = self._clock()
        elapsed, self._beat_at = now - self._beat_at, now
        if excused:
            self.silent_seconds = 0.0
        else:
            self.silent_seconds += min(elapsed, 2 * interval_seconds)

    @property
    def stalled(self) -> bool:
        """Whether it is silent for far longer than its steps take; never before the first few."""
        if len(self._signs) < _FIRST_SIGNS:
            return False
        return self.silent_seconds > max(STALLED_LEAST, STALLED_STEPS * median(list(self._signs)))
