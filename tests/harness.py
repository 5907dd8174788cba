"""Real `runner` processes for the tests: started, watched, really killed, compared."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.queue.job import Job
from runner.queue.queue import Queue
from runner.store.filesystem import open_store
from runner.store.settings import OPTIONS_VARIABLE
from tests import warm

REPOSITORY = Path(__file__).parent.parent
QUICKSTART = REPOSITORY / "jobs" / "quickstart.json"
WORKERS = ("submit", "resume", "work")
Process = subprocess.Popen[str] | warm.Process
DATA = Path(os.environ.get("RUNNER_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
#: what decides over bits and may differ between the test's environment and a user's
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "RUNNER_NOTICES": "off",  # a test machine in a cloud is asked for nothing
}
#: what decides over a process while it starts: each value has a warm server of its own
AT_START = ("KERAS_BACKEND", "PYTHONHASHSEED", "WARM_IMPORTS")
#: what does so too, and no fork can have another value of: such processes are not forked
ONLY_AT_START = ("PYTHON", "TF_", "JAX_", "KERAS_", "OMP_", "FSSPEC_", "LC_", "LANG", "HOME", "TMP")
ANYTIME = "TF_FORCE_GPU_ALLOW_GROWTH"  #: that `runner` sets, in the tests' own process as well
#: by each warm server, where it is installed
IMPORTED = "keras sklearn.datasets sklearn.metrics msgspec pydantic rich.console rich.table"
_BEFORE_ALL_TESTS = dict(os.environ)

#: small steps between checkpoints, so that there is much to be lost and much to be wrong; and
#: deaths in quick succession are no poison here
OFTEN = {"checkpoint.every": "3 steps", "limits.deaths": 1000}


def cifar(name: str = "cifar100_2500.npz") -> Path:
    """Return the real data, or skip the test."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there; set RUNNER_TEST_DATA to the folder that holds it")
    return path


@dataclass
class Runner:
    """`runner` commands on one store, as a user's shell would run them."""

    store: Path
    environment: Mapping[str, str] | None = None
    url: str = ""  #: of a bucket, instead of the folder
    warm: bool = False  #: started workers too are forks of a process that has imported TensorFlow
    within: Sequence[str] = ()  #: a command that runs another, given as its arguments

    def start(
        self,
        *arguments: str,
        sabotage: str = "",
        module: str = "runner",
        environment: Mapping[str, str] | None = None,
    ) -> "Process":
        """Start a command. `sabotage` names a moment at which the process kills itself."""
        module = "tests.saboteur" if sabotage else module
        env = self._environment(sabotage, environment)
        if self.warm and arguments[0] in WORKERS and "--detach" not in arguments:
            return _forked(module, arguments, env)
        return subprocess.Popen(
            [*self.within, sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            preexec_fn=_hear_ctrl_c,
            env=env,
        )

    def run(
        self, *arguments: str, sabotage: str = "", environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        env = self._environment(sabotage, environment)
        if self.within or not _can_be_forked(env):
            process = self.start(*arguments, sabotage=sabotage, environment=environment)
        else:
            process = _forked("tests.saboteur" if sabotage else "runner", arguments, env)
        out, err = process.communicate(timeout=540)
        assert process.returncode is not None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _environment(self, sabotage: str, more: Mapping[str, str] | None) -> dict[str, str]:
        return {
            **os.environ,
            **ENVIRONMENT,
            "RUNNER_STORE": self.url or str(self.store),
            **({"SABOTAGE": sabotage} if sabotage else {}),
            **(self.environment or {}),
            **(more or {}),
        }

    def ok(self, *arguments: str) -> str:
        """Run a command that must succeed; its standard output."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def status(self, job: str) -> dict[str, Any]:
        """Return `runner status JOB --json`."""
        status: dict[str, Any] = json.loads(self.ok("status", job, "--json"))
        return status

    def queue(self) -> Queue:
        """Return the store's queue, read from this process."""
        options = (self.environment or {}).get(OPTIONS_VARIABLE)
        found = json.loads(options) if options else None
        return Queue(open_store(self.url or str(self.store), storage_options=found))

    def job(self, name: str) -> Job | None:
        """Return the job as its log says, None before it is submitted."""
        return self.queue().find(name)


#: why `make test` does not bring a package that some tests need
_LEFT_OUT = {
    "keras_hub": "it brings tensorflow-text: 200 MB, and only for the TensorFlow of its own version"
}


def few(cases: Iterable[Any], number: int) -> list[Any]:
    """Return parameters of a test; all but the first `number` of them are for `make test-slow`."""
    mark = pytest.mark.slow
    return [
        case
        if place < number
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark)
        for place, case in enumerate(cases)
    ]


def need(*packages: str) -> None:
    """Skip a test where one of these is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            why = f" ({_LEFT_OUT[package]})" if package in _LEFT_OUT else ""
            pytest.skip(f"{package} is not installed{why}")


def large_npz(folder: Path) -> Path:
    """Return a file whose directory tells of more images than any machine can hold."""
    path = folder / "large.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x_train.npy", b"")
        file.getinfo("x_train.npy").file_size = 10**14
    return path


def change_record(path: Path, **fields: Any) -> None:
    """Change fields of a record in its file; its own hash goes, as the first versions had none."""
    record = json.loads(path.read_text())
    kept = {name: value for name, value in record.items() if not name.startswith("sum")}
    path.write_text(json.dumps({**kept, **fields}))


def _can_be_forked(environment: Mapping[str, str]) -> bool:
    """Tell if it has nothing that must be there before Python or TensorFlow starts."""
    if environment.get("KERAS_BACKEND", "tensorflow") not in ("tensorflow", "jax"):
        return False
    before = {**_BEFORE_ALL_TESTS, **ENVIRONMENT}
    return all(
        environment.get(name) == before.get(name)
        for name in environment.keys() | before.keys()
        if name.startswith(ONLY_AT_START) and name not in (*AT_START, ANYTIME)
    )


def _forked(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> warm.Process:
    early = {name: environment[name] for name in AT_START if name in environment}
    early["WARM_IMPORTS"] = " ".join([IMPORTED, environment.get("WARM_IMPORTS", "")])
    server = warm.server(**ENVIRONMENT, **early)
    return warm.Process(server, module, arguments, environment)


def _hear_ctrl_c() -> None:
    # a test run in the background of a shell has it ignored, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


def kill(process: "Process") -> str:
    """Kill for real, with nothing tidied up; what the process said."""
    process.send_signal(signal.SIGKILL)
    return process.communicate()[1]


def wait_until(
    condition: Callable[[], bool],
    process: "Process",
    *,
    seconds: float = 180,
) -> bool:
    """Wait for a condition; False if the process ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return condition()
        time.sleep(0.02)
    pytest.fail(f"waited {seconds} s in vain; the process said:\n{kill(process)[-3000:]}")


def outcome(status: Mapping[str, Any]) -> dict[str, Any]:
    """What must be identical between a run that was killed and one that nobody touched."""
    return {
        "state": status["state"],
        "final": status["final"],
        "history": status["history"],
        "evaluation": status["evaluation"],
        "epoch": status["epoch"],
        "step": status["step"],
    }


def assert_same(killed: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    """Compare bit for bit: digests are hashes, floats are compared by their shortest repr."""
    one, other = (
        {name: json.dumps(part, sort_keys=True) for name, part in outcome(status).items()}
        for status in (killed, reference)
    )
    different = {name: (one[name], other[name]) for name in other if one[name] != other[name]}
    assert not different, f"not the same: {different}"


def sets(changes: Mapping[str, object]) -> Sequence[str]:
    """Return `--set` arguments."""
    return [
        word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]


def finish(runner: Runner, name: str, *deaths: str) -> dict[str, Any]:
    """Die at each of these moments, then end the job; its status."""
    for death in deaths:
        done = runner.run("resume", name, sabotage=death)
        assert done.returncode == -9, f"{death} never came: {done.stderr[-2000:]}"
        lost = runner.status(name)
        assert lost["state"] == "lost", f"a dead worker is shown as {lost['state']}"
    done = runner.run("resume", name)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    return runner.status(name)
