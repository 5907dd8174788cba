"""How long this machine is ours, and whether something started now could get anywhere.

Free notebooks end after a time that is known; they say nothing before. So a worker stops with
its state saved a little earlier, and begins nothing that could not make a step until then.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.engine.preemption import StopRequest
from runner.queue.job import Job
from runner.store.steps import boot_clock

HOUR = 3600.0
NOT_BEGUN = "not begun: "  #: begins why a job is not, near the end
STARTUP_SECONDS = 60.0  #: from a claim to its first new step, where no attempt has shown it
_MARGIN_SHARE, _MARGIN_LEAST, _MARGIN_MOST = 0.05, 2.0, 180.0


@dataclass(frozen=True, kw_only=True)
class Session:
    """Until when to work.

    Args:
        seconds: from now on.
        why: for people: "--max-duration 11h", "Colab's 12 hours".
        clock: counts while the machine sleeps.
    """

    ends_at: float  #: by the clock
    margin_seconds: float  #: before that: to save, to release
    why: str
    clock: Callable[[], float] = boot_clock

    @classmethod
    def lasting(
        cls, seconds: float, why: str, *, clock: Callable[[], float] = boot_clock
    ) -> "Session":
        """Return a session that ends in so many seconds."""
        margin = min(_MARGIN_MOST, max(_MARGIN_LEAST, _MARGIN_SHARE * seconds))
        return cls(ends_at=clock() + seconds, margin_seconds=margin, why=why, clock=clock)

    @property
    def left_seconds(self) -> float:
        """Seconds in which to work; below 0, stop."""
        return self.ends_at - self.margin_seconds - self.clock()

    @property
    def end_in_seconds(self) -> float:
        """Seconds until the machine is gone."""
        return self.ends_at - self.clock()

    def end_if_over(self, stop: StopRequest) -> None:
        """Ask for a stop when the time to work is over."""
        if self.left_seconds <= 0:
            why = f"the time is over soon ({self.why})"
            stop.set(why, seconds_left=self.end_in_seconds)

    def too_short_for(self, job: Job) -> str:
        """Return why a job would not make a step until the end, or ""."""
        needed = 1.2 * job.startup_seconds if job.startup_seconds else STARTUP_SECONDS
        left = self.left_seconds
        if left > needed:
            return ""
        known = "took it the last time" if job.startup_seconds else "is what a start may take"
        return (
            f"{NOT_BEGUN}{max(0.0, left):.0f} s are left ({self.why}), and "
            f"{job.startup_seconds or STARTUP_SECONDS:.0f} s {known}"
        )


def known_limit(
    environment: Mapping[str, str] = os.environ, age_seconds: float | None = None
) -> tuple[float, str] | None:
    """Return the seconds that the host leaves to this session, and whose rule that is.

    Colab ends free runtimes after at most 12 hours (its FAQ; paying users may have 24: they say
    so with --max-duration). Kaggle ends CPU and GPU sessions after 12 hours, TPU sessions after
    9 (its notebooks' documentation). A session is as old as the first process of its container;
    None where no limit is known.
    """
    if environment.get("COLAB_RELEASE_TAG"):
        hours, whose = 12.0, "Colab's 12 hours"
    elif environment.get("KAGGLE_KERNEL_RUN_TYPE"):
        hours, whose = 12.0, "Kaggle's 12 hours"
        if any(name.startswith("TPU_") for name in environment):
            hours, whose = 9.0, "Kaggle's 9 hours with a TPU"
    else:
        return None
    age = container_age() if age_seconds is None else age_seconds
    if age >= hours * HOUR:
        return None  # it has outlived the limit, so the limit is not its own
    return hours * HOUR - age, whose


def container_age(proc: Path = Path("/proc")) -> float:
    """Return the seconds since the first process of this container began; 0 where not told."""
    try:
        uptime = float((proc / "uptime").read_text().split()[0])
        started = (proc / "1" / "stat").read_text().rpartition(")")[2].split()[19]
        return max(0.0, uptime - int(started) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
