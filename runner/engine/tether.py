"""A process that is asked to save and stop, once, when the one that started it dies.

`python tether.py PARENT MODULE ARGUMENT…` runs `python -m MODULE ARGUMENT…` and ends as it does.
However the parent dies, the kernel tells (Linux): SIGTERM at its death. It tells once for each of
the parent's threads, and an engine may signal besides. The second signal would end a worker with
nothing saved, so it gets only the first: that is what this process between them is for. When
even this one is killed (Ray kills an actor's children), the kernel sends the worker a SIGHUP, which
is never taken for a second wish.

Nothing is imported that is not needed: every worker's start waits for this.
"""

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1  #: prctl(2)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def tie_to(parent: int, number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent dies."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(1)  # it died before we could ask: nobody reads the code


def main(parent: int, module: str, *arguments: str) -> int:
    """Run the module; its exit code, negative for the signal that ended it."""
    asked = passed_on = False
    worker: subprocess.Popen[bytes] | None = None

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        pass_on()

    def pass_on() -> None:
        nonlocal passed_on
        if asked and worker is not None and not passed_on:
            passed_on = True
            worker.terminate()

    for number in SIGNALS:
        signal.signal(number, ask)
    # an engine's processes block signals that are meant for its own people
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    tie_to(parent, signal.SIGTERM)
    me = os.getpid()
    worker = subprocess.Popen(  # noqa: S603 - our own program, no shell
        [sys.executable, "-m", module, *arguments],
        preexec_fn=lambda: tie_to(me, signal.SIGHUP),  # safe: there is no other thread
    )
    pass_on()  # what came before there was a worker
    return worker.wait()


if __name__ == "__main__":
    code = main(int(sys.argv[1]), *sys.argv[2:])
    if code < 0:
        if -code in SIGNALS:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
