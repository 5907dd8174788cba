"""A real MLflow server has each epoch once, bit for bit, whatever died or was away meanwhile."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.mirrors.copies import run_id
from tests.harness import Runner, need

#: a `mlflow` that can be a server: the package `mlflow`, not `mlflow-skinny`
SERVER = os.environ.get("RUNNER_TEST_MLFLOW") or ""
SPEC: dict[str, Any] = {
    "name": "seen",
    "trackers": ["mlflow"],
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "model": {"name": "mlp", "arguments": {"units": [6]}},
    "training": {"epochs": 5, "batch_size": 128, "threads": 1},
    "checkpoint": {"every": "4 steps"},
    "evaluation": {"augmented_passes": 0},
    "limits": {"deaths": 1000},
}


class Server:
    """A server that can be away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [
                *(SERVER, "server", "--host", "127.0.0.1", "--port", str(self._port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/runs.db"),
                *("--artifacts-destination", str(self._folder / "artifacts")),
            ],
            env={
                **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdout=(self._folder / "server.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                time.sleep(0.2)
            else:
                return
        raise AssertionError("no server")

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    need("mlflow")
    if not shutil.which(SERVER):
        pytest.skip("RUNNER_TEST_MLFLOW names no `mlflow` that can be a server")
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def server(one_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with an experiment of this test's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", one_server.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    return one_server


def submit(runner: Runner, folder: Path, **changes: Any) -> None:
    path = folder / "job.json"
    path.write_text(json.dumps({**SPEC, **changes}))
    runner.ok("submit", str(path), "--detach")


def assert_mirrored(runner: Runner) -> Any:
    """There is one run, and it has what the job's record and History have, nothing else."""
    from mlflow import MlflowClient

    marks = runner.store / "jobs/seen/mirrored"
    for _ in range(5):  # a machine that is busy may need more than one worker's last seconds
        if marks.is_dir() and any(marks.iterdir()):
            break
        runner.ok("work", "--until-empty")
    client, status = MlflowClient(), runner.status("seen")
    job = runner.job("seen")
    assert job is not None
    experiment = client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["runner.job"] == run_id(job)
    assert run.info.status == "FINISHED"
    for name, values in status["history"].items():
        found = client.get_metric_history(run.info.run_id, name)
        assert [one.step for one in found] == [*range(len(values))], name
        assert [repr(one.value) for one in found] == [
            repr(math.nan if value is None else value) for value in values
        ]
    results = {f"evaluation/{name}": float(v) for name, v in status["evaluation"].items()}
    assert {*run.data.metrics} == {*status["history"], *results}
    for name, value in results.items():
        assert [one.value for one in client.get_metric_history(run.info.run_id, name)] == [value]
    assert run.data.params["training.epochs"] == str(status["epoch"])
    assert run.data.params["model.name"] == "mlp"
    files = client.list_artifacts(run.info.run_id, "report")
    assert "report/report.html" in [one.path for one in files]
    assert len([*marks.iterdir()]) == 1
    return run


def has(runner: Runner, epochs: int) -> bool:
    """Whether so many are committed, or the training has ended."""
    job = runner.job("seen")
    return job is not None and (job.epoch >= epochs or job.ended)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_killed_between_commits_and_the_mirror(server: Server, tmp_path: Path) -> None:
    """Right after a commit; and while the server, frozen, has the values but has not answered."""
    server.start()
    runner = Runner(tmp_path / "store", warm=True)
    submit(runner, tmp_path)
    for moment in ("committed:3", "committed:2", "committed:1", "finished:1"):
        died = runner.run("resume", sabotage=moment)
        assert died.returncode == -9, died.stderr[-2000:]
    runner.ok("resume")
    assert_mirrored(runner)


def test_the_final_model_is_there_where_it_is_asked_for(server: Server, tmp_path: Path) -> None:
    """Also where the worker that trained it died before."""
    import keras
    from mlflow import MlflowClient

    server.start()
    runner = Runner(tmp_path / "store", warm=True)
    submit(runner, tmp_path, log_model=True)
    assert runner.run("resume", sabotage="finished:2").returncode == -9
    assert runner.status("seen")["state"] == "succeeded"
    runner.ok("work", "--until-empty")
    run, client, own = assert_mirrored(runner), MlflowClient(), tmp_path / "own.keras"
    sent = client.download_artifacts(run.info.run_id, "model/model.keras", str(tmp_path))
    runner.ok("export", "seen", str(own))
    first, second = (keras.models.load_model(path).get_weights() for path in (sent, own))
    assert len(first) == len(second) > 0
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))


def test_killed_while_the_server_is_frozen(server: Server, tmp_path: Path) -> None:
    server.start()
    runner = Runner(tmp_path / "store", warm=True)
    submit(runner, tmp_path, training={**SPEC["training"], "epochs": 8})
    for epochs in (2, 4, 6):
        process = runner.start("resume")
        wait_for(partial(has, runner, epochs - 1))
        server.signal(signal.SIGSTOP)
        wait_for(partial(has, runner, epochs))
        process.kill()
        process.communicate()
        server.signal(signal.SIGCONT)
    runner.ok("resume")
    assert_mirrored(runner)


def test_a_server_that_is_away_delays_nothing_and_is_caught_up(
    server: Server, tmp_path: Path
) -> None:
    """The job ends without it; two other workers at once find it unmirrored later."""
    server.stop()
    runner = Runner(tmp_path / "store", warm=True)
    submit(runner, tmp_path)
    assert "nothing is lost" in runner.run("resume").stderr
    assert runner.status("seen")["state"] == "succeeded"
    assert not (runner.store / "jobs/seen/mirrored").exists()
    server.start()
    workers = [runner.start("work", "--until-empty") for _ in range(2)]
    for worker in workers:
        _, err = worker.communicate()
        assert worker.returncode == 0, err[-2000:]
    mirrored = assert_mirrored(runner)
    records = [*(runner.store / "jobs/seen/log").iterdir()]
    runner.ok("work", "--until-empty")
    assert assert_mirrored(runner).data.metrics == mirrored.data.metrics
    assert [*(runner.store / "jobs/seen/log").iterdir()] == records


def test_away_for_a_while_within_a_training(server: Server, tmp_path: Path) -> None:
    server.start()
    runner = Runner(tmp_path / "store", warm=True)
    submit(runner, tmp_path, training={**SPEC["training"], "epochs": 12})
    process = runner.start("resume")
    wait_for(partial(has, runner, 2))
    server.stop()
    wait_for(partial(has, runner, 6))
    server.start()
    _, err = process.communicate()
    assert process.returncode == 0, err[-2000:]
    runner.ok("work", "--until-empty")
    assert_mirrored(runner)
