"""Keeps one `runner work` alive on a machine that an engine lends.

The worker is a process of its own, not a thread of the engine's:

- signals reach its main thread, which in an engine's process belongs to the engine;
- a training that hangs can be ended only with its process, and the engine's must not end with it;
- a GPU's memory and TensorFlow's state end with it, so each start is like the first;
- it sees the GPUs that the engine granted, through the environment it inherits.

It never outlives the engine's process: see `runner.engine.tether`. What it does is decided by the
bucket alone, so that any number of keepers may run, be lost, and run again.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from runner.engine import tether
from runner.engine.session import Session
from runner.exit import Exit, worst

SHORT_SECONDS = 10.0  #: a process that lived no longer did not get to work
MOST_IN_VAIN = 5  #: so many of those in a row are a fault of the machine or the command
MOST_PAUSE = 60.0
_LEFT_OVER = 5.0  #: seconds of a session that are not worth a start


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the worker is to do, the same for all of a crew.

    Args:
        module: run with `python -m`.
        arguments: of it.
        environment: over that of the machine.
        ends_at: seconds since 1970, when the machines are no longer ours; None: never.
    """

    module: str = "runner"
    arguments: Sequence[str] = ("work",)
    environment: Mapping[str, str]
    ends_at: float | None = None


class Keeper:
    """Runs the worker, and again, until it has nothing left to do or is asked to stop."""

    def __init__(
        self, work: Work, *, environment: Mapping[str, str] | None = None, pause: float = 1.0
    ) -> None:
        self._work = work
        self._environment = {**os.environ, **work.environment, **(environment or {})}
        self._pause = pause
        self._one = threading.Lock()  # a call that is made again waits for the one that goes on
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._session = _session(work)

    def run(self) -> int:
        """Keep it alive; its exit code, the first failure's if any."""
        with self._one:
            failed, short, in_vain = False, 0, 0
            while (process := self._start()) is not None:
                began = time.monotonic()
                code = process.wait()
                failed = failed or code == Exit.FAILED
                if not self._again(code):
                    return Exit.FAILED if failed else code
                short = short + 1 if time.monotonic() - began < SHORT_SECONDS else 0
                in_vain = in_vain + 1 if short and code != Exit.PREEMPTED else 0
                if in_vain >= MOST_IN_VAIN:
                    return code if code > 0 else 128 - code
                self._stopping.wait(min(MOST_PAUSE, self._pause * 2 ** min(short, 10)))
            return Exit.PREEMPTED

    def stop(self) -> None:
        """Ask the worker to save and release its job, and start none any more; does not wait."""
        with self._changing:
            if not self._stopping.is_set() and self._process is not None:
                self._process.terminate()
            self._stopping.set()

    def join(self) -> None:
        """Wait until no worker is left, after `stop`."""
        with self._one:
            pass

    def _start(self) -> "subprocess.Popen[bytes] | None":
        arguments = list(self._work.arguments)
        if self._session is not None:
            left = self._session.ends_at - self._session.clock()
            if self._session.left_seconds <= _LEFT_OVER:
                return None
            arguments += ["--max-duration", f"{left:.0f}s"]
        with self._changing:
            if self._stopping.is_set():
                return None
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [sys.executable, "-I", "-S", str(Path(tether.__file__)), str(os.getpid()),
                 self._work.module, *arguments],
                env=self._environment,
                start_new_session=True,  # a Ctrl-C at the terminal goes to who passes it on
            )  # fmt: skip
            return self._process

    def _again(self, code: int) -> bool:
        """Whether another process could do more: this one was stopped, killed, or hung.

        With 1 it may have ended a job that hung for the last time, with others left.
        """
        could = code in (Exit.PREEMPTED, Exit.FAILED) or code < 0
        return could and not self._stopping.is_set()


def keep_all(
    work: Work, environments: Sequence[Mapping[str, str]], *, stopped: Callable[[], bool]
) -> int:
    """Keep one worker alive in each environment until all are done; the worst exit code.

    Args:
        work: for each of them.
        environments: over that of the work.
        stopped: asked often; then all are asked to save and release their jobs.
    """
    keepers = [Keeper(work, environment=one) for one in environments]
    with ThreadPoolExecutor(len(keepers)) as pool:
        running = [pool.submit(keeper.run) for keeper in keepers]
        while wait(running, timeout=0.2).not_done:
            if stopped():
                for keeper in keepers:
                    keeper.stop()
    return worst(one.result() for one in running)


def _session(work: Work) -> Session | None:
    if work.ends_at is None:
        return None
    return Session.lasting(max(0.0, work.ends_at - time.time()), "the session")
