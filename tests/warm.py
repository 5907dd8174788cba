"""`runner` processes as forks of one that has imported the packages that `runner` uses.

They are real processes, really killed, each with an environment of its own. Nothing of TensorFlow
has run before the fork and nothing of `runner` is imported, so all state is the child's own; what
is saved is the seconds that importing takes. What is to happen while it imports is no case for it.
"""

import atexit
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
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

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
    code: object = 0
    try:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - told as Python would
        traceback.print_exc()
        code = 1
    leave(code)


def leave(code: object) -> NoReturn:
    """End as Python does, but leave all that was imported to the system: 2 s are saved."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    for package in os.environ["WARM_IMPORTS"].split():
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    if (task := serve()) is not None:
        be(task)
