"""W&B as a mirror, in a process of its own: its client stays out of the one that trains.

The run has the id of the job's, so each attempt continues it. W&B says at which step it goes on,
and a step is an epoch: what the server has is not sent again. Offline there is no server to ask;
the whole run is written anew, and takes the place of what this machine had written before.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.mirrors.copies import Copy
from runner.queue.job import State

PROJECT = "runner"  #: where WANDB_PROJECT says nothing else
SECONDS = 600.0  #: for one mirroring; a model may be uploaded in it


def mirror(copy: Copy, artifacts: Mapping[str, Path]) -> str:
    """Add what the server lacks. W&B is asked for no values, so it never differs: "".

    Raises:
        RuntimeError: W&B could not be reached, or refused.
    """
    task = {
        "id": copy.id,
        "name": copy.job.id,
        "config": copy.parameters,
        "history": copy.history,
        "results": copy.results,
        "ended": copy.job.ended,
        "failed": copy.job.state is State.FAILED,
        "artifacts": {name: str(folder) for name, folder in artifacts.items()},
    }
    done = subprocess.run(  # noqa: S603 - this Python, this module
        [sys.executable, "-m", __name__],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(said[-1])
    return ""


def send(task: dict[str, Any]) -> None:
    """Bring the run up to date; in the process of its own."""
    run = _begun(task)
    if run.disabled:
        raise RuntimeError("WANDB_MODE says that nothing is to be sent")
    _log(run, task["history"])
    run.summary.update(task["results"])
    for kind, artifact in task["artifacts"].items():
        _log_artifact(run, f"{kind}-{task['id']}", kind, artifact)
    run.finish(exit_code=int(task["failed"]))
    folder = Path(run.dir).parent
    earlier = folder.parent.glob(f"offline-run-*-{task['id']}") if run.offline else ()
    for one in {*earlier} - {folder}:
        shutil.rmtree(one)


def _begun(task: dict[str, Any]) -> Any:
    """Return the run, which goes on where an earlier process left it on the server."""
    import wandb

    return wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        id=task["id"],
        name=task["name"],
        config=task["config"],
        resume="allow",
        settings=wandb.Settings(
            console="off",
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            x_update_finish_state=task["ended"],
        ),
    )


def _log(run: Any, history: dict[str, list[float | None]]) -> None:
    """Log the epochs that the run lacks."""
    first = 0 if run.offline else run.starting_step
    for epoch in range(first, max(map(len, history.values()), default=0)):
        values = {name: row[epoch] for name, row in history.items() if epoch < len(row)}
        run.log({k: math.nan if v is None else v for k, v in values.items()}, step=epoch)


def _log_artifact(run: Any, name: str, kind: str, folder: str) -> None:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    artifact.add_dir(folder)
    run.log_artifact(artifact)


if __name__ == "__main__":
    send(json.load(sys.stdin))
