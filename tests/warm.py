"""`runner` processes as forks of one that has imported TensorFlow: for tests with many deaths.

They are real processes, really killed, each with an environment of its own. Nothing of TensorFlow
has run before the fork and nothing of `runner` is imported, so all state is the child's own; what
is saved is the seconds that importing takes. What is to happen while it imports is no case for it.
"""

import contextlib
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).parent.parent


class Server:
    """The process that is forked."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"],
            env={**os.environ, **environment},
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **question: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Process:
    """A fork, with what the tests use of `subprocess.Popen`."""

    def __init__(
        self, server: Server, module: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        self.stderr: IO[str] | None = None  #: nothing to be read before the end
        self._server = server
        self._said: list[IO[bytes]] = [tempfile.NamedTemporaryFile() for _ in "12"]  # noqa: SIM115
        self.pid: int = server.ask(
            module=module,
            arguments=list(arguments),
            environment=dict(environment),
            files=[file.name for file in self._said],
        )

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask(poll=self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        end = time.monotonic() + (timeout or 3600.0)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 3600.0)
            time.sleep(0.02)
        out, err = (Path(file.name).read_text(errors="replace") for file in self._said)
        return out, err


@functools.cache
def server(**environment: str) -> Server:
    """The one of this test process; it ends with it."""
    return Server(environment)


def serve() -> dict[str, Any] | None:
    """Answer each line of the input. Returns in each fork, with what it is to do."""
    for line in sys.stdin:
        asked = json.loads(line)
        if pid := asked.get("poll"):
            ended, status = os.waitpid(pid, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if answer == 0:
                return dict(asked)
        print(json.dumps(answer), flush=True)
    return None


def be(asked: Mapping[str, Any]) -> None:
    """Become the process that was asked for."""
    for descriptor, path in enumerate((os.devnull, *asked["files"])):
        os.dup2(os.open(path, os.O_RDWR), descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123 - what was read ahead is not for us
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = [asked["module"], *asked["arguments"]]
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import keras  # noqa: F401
        import sklearn.datasets
        import sklearn.metrics  # noqa: F401

        for package in os.environ.get("WARM_IMPORTS", "").split():
            importlib.import_module(package)
    if (task := serve()) is not None:
        be(task)
