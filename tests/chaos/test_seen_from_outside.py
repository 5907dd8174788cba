"""The quickstart, killed twice, as people see it: goodput, one MLflow run, a page, a message."""

import math
from pathlib import Path

import pytest

from tests.engine.receivers import Web
from tests.harness import QUICKSTART, Runner, sets
from tests.mirrors.test_mlflow import Server, one_server, server

pytestmark = pytest.mark.chaos
__all__ = ["one_server", "server"]


def test_the_quickstart_killed_twice(server: Server, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    server.start()
    web = Web()
    runner = Runner(tmp_path / "store", {"RUNNER_NOTIFY": web.url})
    changes = {"trackers": ["mlflow"], "report.publish": True, "training.early_stopping": None}
    page = runner.store / "jobs/quickstart/report/index.html"
    shown = []
    with web.open():
        runner.ok("submit", str(QUICKSTART), "--detach", *sets(changes))
        for moment in ("epoch:5", "epoch:6"):
            died = runner.run("resume", sabotage=moment)
            assert died.returncode == -9, died.stderr[-2000:]
            shown.append(page.read_text())
        runner.ok("resume")
        runner.ok("work", "--until-empty")
    shown.append(page.read_text())
    status = runner.status("quickstart")
    assert (status["state"], status["deaths"], status["epoch"]) == ("succeeded", 2, 15)

    assert 0 < status["goodput"] < 1
    assert status["time"]["repeated"] > 0

    client = MlflowClient()
    experiment = client.get_experiment_by_name(tmp_path.name)
    (run,) = client.search_runs([experiment.experiment_id])
    for name, values in status["history"].items():
        found = client.get_metric_history(run.info.run_id, name)
        assert [one.step for one in found] == [*range(15)]
        assert [repr(one.value) for one in found] == [
            repr(math.nan if value is None else value) for value in values
        ]

    assert len({*shown}) == 3, "the page stood still"
    assert "running" in shown[0]
    assert "succeeded" in shown[-1]

    assert web.titles == ["runner: quickstart succeeded"]
