"""The README's two pictures, made of a real run: `make pictures`.

    python -m tests.pictures

trains the quickstart job on a terminal of its own, kills it with SIGKILL in its fourth epoch,
resumes it, and writes beside this file

- `terminal.svg`: what was on the terminal, drawn by rich,
- `report.png`: the page of `runner report` in a headless Chromium, which has to be on the path.
"""

import base64
import io
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tests.harness import REPOSITORY
from tests.report.chromium import browsing

HERE = Path(__file__).parent
HOME = "/home/ann"  #: shown for the folder of the run, which has another name each time
COLUMNS = 104
KILLED_IN = re.compile(rb"epoch 4/15, step (1[0-9]|2[0-9])/36")
PAGE = {"width": 860, "height": 985, "scale": 1.0}  #: of the report's picture, in pixels
COLOURS = 64  #: of it

_CONTROL = re.compile(r"\x1b\[\?25[lh]|\x1b\[\d*A|\r")
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        terminal = Terminal(folder)
        terminal.run("runner submit jobs/quickstart.json", until=KILLED_IN.search)
        terminal.write("")
        terminal.write("# kill -9, a lost session, a flat battery; then, here or elsewhere:")
        terminal.run("runner resume")
        terminal.write("")
        terminal.run("runner status")
        terminal.write("")
        terminal.run("runner report")
        (HERE / "terminal.svg").write_text(terminal.svg(), encoding="utf-8")
        page = folder / "report/report.html"
        page.write_text(page.read_text(encoding="utf-8").replace(name, HOME), encoding="utf-8")
        (HERE / "report.png").write_bytes(screenshot(page, folder))


class Terminal:
    """What commands write to a terminal, those of a folder that has a store in `runs`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
        (folder / "jobs").symlink_to(REPOSITORY / "jobs")

    def write(self, text: str) -> None:
        """Write a line of our own."""
        self._console.print(Text(text, "dim"))

    def run(self, command: str, until: Callable[[bytes], object] = lambda _: False) -> None:
        """Run a command to its end, or kill it when `until` is true of what it writes."""
        self._console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        environment = {
            **os.environ,
            "COLUMNS": str(COLUMNS),
            "TERM": "xterm-256color",
            "RUNNER_STORE": str(self._folder / "runs"),
            "PYTHONPATH": str(REPOSITORY),
        }
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=self._folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        written = b""
        while piece := _read(ours):
            written += piece
            if until(written):
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
        os.close(ours)
        for line in _shortened(_lines(written.decode(errors="replace"))):
            self._console.print(Text.from_ansi(line.replace(str(self._folder), HOME)))

    def svg(self) -> str:
        """Return the picture, with the reader's own letters instead of a font from elsewhere."""
        drawn = self._console.export_svg(
            title="runner", theme=DIMMED_MONOKAI, unique_id="terminal", font_aspect_ratio=0.61
        )
        return _FONT.sub("", drawn).replace("Fira Code, monospace", "monospace")


def _lines(written: str) -> list[str]:
    """What stays of what was written: lines that move are erased, and others follow."""
    lines: list[str] = []
    for line in written.rstrip().split("\n"):
        if "\x1b[1A" in line:  # the line above is erased
            lines.pop()
        lines.append(_CONTROL.sub("", line.rsplit("\x1b[2K", 1)[-1]))
    return [line for line in lines if line]


def _shortened(lines: list[str]) -> list[str]:
    """Leave out epochs in the middle of a long list of them."""
    epochs = [line for line in lines if line.startswith("  epoch ")]
    left_out = set(epochs[2:-1]) if len(epochs) > 4 else set()
    shown = ["  ..." if line in left_out else line for line in lines]
    return [line for line, before in zip(shown, ["", *shown], strict=False) if line != before]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""


def screenshot(page: Path, folder: Path) -> bytes:
    """Return the top of a page as a PNG of few colours."""
    pipes = folder / "browser"
    pipes.mkdir()
    with browsing(pipes) as browser:
        size = {"width": PAGE["width"], "height": PAGE["height"]}
        browser("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, mobile=False, **size)
        browser("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(page)
        shot = browser("Page.captureScreenshot", clip={"x": 0, "y": 0, **PAGE})["data"]
    image = Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")
    small = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


if __name__ == "__main__":
    main()
