"""Commands of `runner` in a notebook's cell, with a progress that stays in its place.

The command is a process of its own: the kernel stays free of TensorFlow, and the stop button asks
the process to save and release its job, which takes longer than an interrupted cell. When the
kernel ends, on Linux the process is asked the same.
"""

import html
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from runner.cli.live import IN_PLACE
from runner.engine import tether
from runner.exit import Exit


def run(*arguments: str) -> int:
    """Run `runner ARGUMENTS…` below this cell; its exit code.

    What it says appears as it comes, its progress in one line above. Interrupting the cell saves
    and ends; again: leaves at once.

    Example:
        >>> run("resume")  # doctest: +SKIP
    """
    variables = {"FORCE_COLOR", "CLICOLOR_FORCE"}  # they would ask for a terminal's colours
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    kernel = os.getpid()
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "runner", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment, IN_PLACE: "1"},
        start_new_session=True,  # it hears of an interruption from us, once
        preexec_fn=(lambda: _tie_to(kernel)) if sys.platform == "linux" else None,
    )
    place = _place()
    output = io.TextIOWrapper(cast(BinaryIO, process.stdout), "utf-8", "replace", newline="")
    while True:  # in this thread, since a notebook tells cells apart by it
        try:
            line = output.readline()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            continue
        if not line:
            break
        if line.endswith("\r"):  # progress
            place(line.rstrip("\r"))
        else:
            sys.stdout.write(f"{line.rstrip()}\n")
    code = process.wait()
    place("")
    if code in (Exit.PREEMPTED, Exit.INTERRUPTED):
        print("stopped with the progress saved: run this cell again to resume")
    return code


def show(page: str | Path, *, height: int = 800) -> None:
    """Show an HTML page below this cell, apart from the notebook's own style.

    Args:
        page: its file.
        height: in pixels.
    """
    from IPython.display import display

    text = html.escape(Path(page).read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe srcdoc="{text}" width="100%" height="{height}" frameborder="0"></iframe>'
    display({"text/html": frame}, raw=True)  # type: ignore[no-untyped-call]


def _tie_to(kernel: int) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a notebook's server may ignore it: nohup
    tether.tie_to(kernel, signal.SIGHUP)  # which is no second request to stop


def _place() -> Callable[[str], None]:
    """A line of output that can be written again."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ModuleNotFoundError:
        return lambda _: None
    if get_ipython() is None:
        return lambda _: None
    handle = display({"text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
    return lambda text: handle.update({"text/plain": text}, raw=True)
