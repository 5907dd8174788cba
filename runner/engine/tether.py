"""A process that is asked to save and stop when the one that started it dies, however that dies.

`python tether.py PARENT MODULE ARGUMENT…` becomes `python -m MODULE ARGUMENT…`. The kernel keeps
the promise (Linux): it sends SIGTERM when the parent's thread is gone, and an exec leaves that as
it is. It is a step of its own because nothing may run between fork and exec in a process with
threads. Nothing is imported that is not needed: this is what every worker's start waits for.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  #: prctl(2)
ORPHANED = 75  #: run me again


def main(parent: int, module: str, *arguments: str) -> None:
    """Tie this process to its parent, then become the module."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            sys.exit(ORPHANED)  # it died before we could ask
    # an engine's processes block or ignore signals that were meant for its own people
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
