"""A page in a real browser: headless Chromium, spoken to over two pipes, without a driver."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def binary() -> str:
    """Return a Chromium, or skip the test."""
    browsers = os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright"
    found = [path for name in NAMES if (path := shutil.which(name))]
    found += [str(path) for path in Path(browsers).glob("chromium*/chrome-linux*/*chrom*")]
    if not found:
        pytest.skip(f"no Chromium here: none of {', '.join(NAMES)} is on the path")
    return found[0]


class Browser:
    """One tab. `said` gathers what its console logged."""

    def __init__(self, send: BinaryIO, receive: BinaryIO) -> None:
        self._send = send
        self._receive = receive
        self._numbers = itertools.count(1)
        self._events: list[str] = []
        self._session: str | None = None
        self.said: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": number, "method": method, "params": parameters, **session}
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            reply = self._next()
            if reply.get("id") == number:
                assert "error" not in reply, reply
                result: dict[str, Any] = reply["result"]
                return result

    def open(self, page: Path) -> None:
        """Show a page and wait until it is whole."""
        self._events.clear()
        self("Page.navigate", url=page.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._next()

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is worth."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"][
            "value"
        ]

    def _next(self) -> dict[str, Any]:
        data = bytearray()
        while (letter := self._receive.read(1)) != b"\0":
            assert letter, "the browser ended"
            data += letter
        message: dict[str, Any] = json.loads(data)
        event = message.get("method", "")
        self._events.append(event)
        if event in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.said.append(json.dumps(message["params"]))
        return message


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Start a browser whose profile and pipes lie in a folder."""
    to, back = folder / "to", folder / "back"
    os.mkfifo(to)
    os.mkfifo(back)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
               "--no-first-run", f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
    # the shell opens file 3 for reading and 4 for writing, where Chromium looks for them
    command = ["bash", "-c", 'exec "$0" "$@" 3<"$TO" 4>"$BACK"', binary(), *options]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TO": str(to), "BACK": str(back)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with to.open("wb") as send, back.open("rb") as receive:
            yield Browser(send, receive)
    finally:
        process.kill()
        process.wait()
