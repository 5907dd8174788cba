"""MLflow as a mirror: what the server holds is asked for, and what is missing is added.

A value has the time at which its epoch ended, which is committed with it. A server that keeps its
runs in a database takes the same value of the same time once, however often it is sent: so two
workers that mirror one job at a time double nothing.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.mirrors.copies import Copy, is_settled
from runner.queue.job import State

EXPERIMENT = "runner"  #: where MLFLOW_EXPERIMENT_NAME says nothing else
TAG = "runner.job"  #: has the id of the job's run; MLflow chooses its own for a new one
AT_ONCE = 1000  #: metrics in a request; the server takes no more
PARAMETERS_AT_ONCE = 100
_ENDED = {State.SUCCEEDED: "FINISHED", State.FAILED: "FAILED", State.CANCELLED: "KILLED"}


def mirror(copy: Copy, artifacts: Mapping[str, Path]) -> str:
    """Add what the server lacks; how its History differs from the job's, in words.

    Args:
        copy: of the job.
        artifacts: folders with what a job has left that has ended, by name.
    """
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it is for programs
    client = MlflowClient()
    run = _run(client, copy)
    known = run.data.params
    _send_parameters(client, run.info.run_id, copy, known)
    missing, differing = _missing(client, run, copy)
    for start in range(0, len(missing), AT_ONCE):
        client.log_batch(run.info.run_id, metrics=missing[start : start + AT_ONCE])
    for name, folder in artifacts.items():
        client.log_artifacts(run.info.run_id, str(folder), name)
    ended = _ENDED.get(copy.job.state)
    if ended:
        at = round(copy.job.updated_at.timestamp() * 1000)
        client.set_terminated(run.info.run_id, ended, end_time=at)
    else:
        status = "SCHEDULED" if is_settled(copy.job) else "RUNNING"
        client.update_run(run.info.run_id, status=status)
    return differing


def _run(client: Any, copy: Copy) -> Any:
    """Return the job's run. Of two that were made at once all workers use the same one."""
    experiment = _experiment(client)
    mine = f"tags.`{TAG}` = '{copy.id}'"
    if not (found := client.search_runs([experiment], mine)):
        at = round(copy.job.submitted_at.timestamp() * 1000)
        client.create_run(experiment, start_time=at, tags={TAG: copy.id}, run_name=copy.job.id)
        found = client.search_runs([experiment], mine)
    first, *others = sorted(found, key=lambda run: str(run.info.run_id))
    for other in others:
        client.delete_run(other.info.run_id)
    return first


def _experiment(client: Any) -> str:
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another worker was first, or it will fail again
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _send_parameters(client: Any, run: str, copy: Copy, known: dict[str, str]) -> None:
    from mlflow.entities import Param

    named = {
        _name(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in copy.parameters.items()
    }
    new = [Param(key, value) for key, value in named.items() if key not in known]
    for start in range(0, len(new), PARAMETERS_AT_ONCE):
        client.log_batch(run, params=new[start : start + PARAMETERS_AT_ONCE])


def _missing(client: Any, run: Any, copy: Copy) -> tuple[list[Any], str]:
    """Return the values that the server lacks, and where it has others."""
    from mlflow.entities import Metric

    missing, differing = [], ""
    named = {_name(name): values for name, values in copy.history.items()}
    for name, values in named.items():
        there = {
            one.step: one.value
            for one in (
                client.get_metric_history(run.info.run_id, name) if name in run.data.metrics else ()
            )
        }
        for epoch, value in enumerate(values):
            number = math.nan if value is None else value
            if epoch not in there:
                at = round(copy.at(epoch) * 1000)
                missing.append(Metric(name, number, at, epoch))
            elif repr(there[epoch]) != repr(number):
                differing = (
                    f"{name} of epoch {epoch + 1} is {there[epoch]!r} there, {number!r} here"
                )
    missing += _results(run, copy)
    return missing, differing


def _results(run: Any, copy: Copy) -> Iterator[Any]:
    """Yield the results of the evaluation that are not there as they are."""
    from mlflow.entities import Metric

    at = round(copy.job.updated_at.timestamp() * 1000)
    for name, value in copy.results.items():
        if run.data.metrics.get(_name(name)) != value:
            yield Metric(_name(name), value, at, copy.job.epoch)


def _name(name: str) -> str:
    """Return a name that MLflow takes."""
    return re.sub(r"[^\w.\- :/]", "_", name)[:250]
