"""What a tracker gets of a job: only what is committed, and the same whoever gives it."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoint.reading import read_manifest
from runner.queue.job import Job, Json, State
from runner.queue.queue import Queue, utc_now
from runner.queue.view import History, history_of
from runner.store.settings import mask

MODEL_SECONDS = 600.0  #: for an export
#: for each tracker the package to install, and the variable that it needs, with an example
NEEDS = {
    "mlflow": ("mlflow-skinny", "MLFLOW_TRACKING_URI", "http://HOST:PORT"),
    "wandb": ("wandb", "WANDB_API_KEY", "KEY (or WANDB_MODE=offline)"),
}


def lacks(tracker: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return why this process can't reach a tracker, and how to fix it; "" where it can try."""
    package, variable, example = NEEDS[tracker]
    if importlib.util.find_spec(tracker) is None:
        return f"{tracker} is not installed here: pip install {package}"
    is_offline = tracker == "wandb" and environment.get("WANDB_MODE") == "offline"
    if not (environment.get(variable) or is_offline):
        return f"{tracker} can't be reached from here: set {variable}={example} in the environment"
    return ""


def lacking(trackers: Iterable[str]) -> list[str]:
    """Return why some of these can't be reached from here, sorted."""
    return sorted(filter(None, map(lacks, NEEDS.keys() & {*trackers})))


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A job as a tracker is to show it."""

    job: Job
    id: str  #: of its run: the same for all attempts and machines, another for a later job
    spec: Json
    history: History  #: one value an epoch; None for what was no finite number
    times: Sequence[float]  #: when the epochs ended, seconds since 1970; missing ones are 0

    @property
    def parameters(self) -> dict[str, Any]:
        """Every field of the spec by its path; passwords in addresses are masked."""
        return dict(_flat(self.spec))

    def at(self, epoch: int) -> float:
        """When an epoch ended, counted from 0."""
        return self.times[epoch] if epoch < len(self.times) else 0.0

    @property
    def results(self) -> dict[str, float]:
        """The numbers of the evaluation."""
        found = self.job.results or {}
        return {
            f"evaluation/{name}": float(value)
            for name, value in found.items()
            if isinstance(value, int | float)
        }


def copy_of(queue: Queue, job: Job) -> Copy:
    """Read what is committed of a job.

    Raises:
        CheckpointError: the newest checkpoint is damaged, or another has taken its place.
    """
    newest = job.final or next(iter(job.checkpoints), None)
    history: History = {}
    times: Sequence[float] = ()
    if newest is not None:
        manifest = read_manifest(queue.store, newest["manifest"])
        history = history_of({"history": manifest.history})
        python = manifest.python if isinstance(manifest.python, dict) else {}
        times = python.get("epoch_times") or []
    return Copy(
        job=job,
        id=run_id(job),
        spec=queue.spec(job.id, job.spec_digest),
        history=history,
        times=times,
    )


def run_id(job: Job) -> str:
    """Return the id of a job's run, from what all its records have in common."""
    text = f"{job.id} {job.submitted_at.isoformat()} {job.spec_digest}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_settled(job: Job) -> bool:
    """Whether no worker is to come to a job: it has ended, or is held."""
    return job.ended or job.state is State.HELD


def write_report(queue: Queue, job: Job, folder: Path) -> None:
    """Write the job's report into an empty folder."""
    from runner.report.collect import collect
    from runner.report.page import render

    page = render(collect(queue, [job.id], now=utc_now()))
    for name, content in {**page.pictures, "report.html": page.html.encode()}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_model(queue: Queue, job: Job, folder: Path) -> str:
    """Write the job's final model into a folder; "" or, in words, why that can't be done here.

    A process of its own does it: making a model begins Keras's names and seeds anew.
    """
    path = folder / "model.keras"
    path.parent.mkdir()
    command = [sys.executable, "-m", "runner", "export", job.id, str(path), "--compare", "0"]
    no_gpu = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}  # the next job may use it
    done = subprocess.run(  # noqa: S603 - this Python, this package
        command,
        env={**os.environ, **no_gpu, "RUNNER_STORE": queue.store.url},
        capture_output=True,
        text=True,
        timeout=MODEL_SECONDS,
        check=False,
    )
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return said[-1] if done.returncode else ""


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, one in value.items():
            yield from _flat(one, f"{path}.{name}" if path else str(name))
    else:
        yield path, _masked(value)


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _masked(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(one) for one in value]
    return mask(value) if isinstance(value, str) else value
