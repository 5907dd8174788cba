"""Run the training program in processes of its own, undisturbed or killed, and compare."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("program.py")
ROOT = PROGRAM.parents[2]


Attempt = Callable[..., "subprocess.CompletedProcess[str]"]


def environment() -> dict[str, str]:
    """The environment in which the program finds this package."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def attempt(
    folder: Path, options: dict[str, Any], number: int, kill: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program once, in a process of its own from the beginning."""
    return subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), json.dumps(options)],
        env={**environment(), "ATTEMPT": str(number), "KILL": json.dumps(kill)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class Warm:
    """Runs attempts in forks of one process that has imported everything already."""

    def __init__(self, folder: Path, program: Path = PROGRAM, **variables: str) -> None:
        self._errors = folder / "errors.txt"
        self._process = subprocess.Popen(
            [sys.executable, str(program), "--serve"],
            env={**environment(), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(
        self, folder: Path, options: dict[str, Any], number: int, kill: dict[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the program once, as `attempt` does."""
        task = {
            "folder": str(folder),
            "options": options,
            "number": number,
            "kill": kill,
            "errors": str(self._errors),
        }
        assert self._process.stdin
        assert self._process.stdout
        self._errors.write_text("")
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess([], code, "", self._errors.read_text(errors="replace"))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def undisturbed(
    folder: Path, options: dict[str, Any], *, attempt: Attempt = attempt
) -> dict[str, Any]:
    """Run the program to its end without a kill."""
    return killed(folder, options, [], attempt=attempt)


def killed(
    folder: Path,
    options: dict[str, Any],
    kills: Sequence[dict[str, Any]],
    *,
    may_finish: bool = False,
    attempt: Attempt = attempt,
) -> dict[str, Any]:
    """Run the program, killed at each of these moments in turn, to its end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, kill in enumerate([*kills, None]):
        process = attempt(folder, options, number, kill)
        if may_finish and process.returncode == 0:
            break  # the kill came too late
        if kill is not None:
            assert process.returncode == -signal.SIGKILL, f"{kill}: {process.stderr[-3000:]}"
    assert process.returncode == 0, process.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not the same in two results, by name."""
    found = []
    for key in one:
        if isinstance(one[key], dict):
            names = one[key].keys() | other[key].keys()
            wrong = sorted(n for n in names if one[key].get(n) != other[key].get(n))
            found += [f"{key}: {name}" for name in wrong]
        elif one[key] != other[key]:
            found.append(key)
    return found
