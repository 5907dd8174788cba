"""Mirrors cost nothing where there are none, and keep no job from being trained."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.mirrors import mirroring
from runner.mirrors.copies import Copy, lacks
from runner.queue.job import Job, spec_digest
from runner.queue.queue import Queue
from runner.spec import parse
from tests.engine.counting import Shop
from tests.harness import Runner


def test_a_model_that_one_worker_cannot_export_is_left_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, got, why = Shop(monkeypatch), list[list[str]](), ["it lacks the program"]

    def take(copy: Copy, artifacts: Mapping[str, Path]) -> str:
        got.append([*artifacts])
        return ""

    def write(queue: Queue, job: Job, folder: Path) -> str:
        return why.pop() if why else ""

    monkeypatch.setattr(mirroring, "lacks", lambda _: "")
    monkeypatch.setattr(mirroring, "copy_of", lambda _, job: Copy(
        job=replace(job, final={}), id="", spec={"log_model": True}, history={}, times=[]
    ))  # fmt: skip
    monkeypatch.setattr(mirroring, "write_report", lambda *_: None)
    monkeypatch.setattr(mirroring, "write_model", write)
    monkeypatch.setitem(mirroring.MIRRORS, "mlflow", take)
    shop.submit("seen", trackers=["mlflow"])
    shop.work()
    assert got[-2:] == [[], ["report"]], "asked for before a model is exported"
    assert shop.store.list("jobs/seen/mirrored/") == []
    shop.work()
    assert got[-1] == ["report", "model"]
    assert shop.store.list("jobs/seen/mirrored/") == [
        mirroring.marker(shop.queue.job("seen"), "mlflow")
    ]


def test_without_trackers_nothing_is_imported_or_asked() -> None:
    """A worker's requests are the same as for a job that the mirror never saw."""
    script = (
        "import sys, threading, pytest\n"
        "from tests.engine.counting import Shop\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        "    shop = Shop(patch)\n"
        "    shop.submit('plain')\n"
        "    mirror = shop.work()._mirroring\n"
        "    assert shop.queue.job('plain').ended\n"
        "    assert mirror._thread is None and not mirror._seen\n"
        "assert not {'mlflow'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_job_that_is_mirrored_whole_costs_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a tracker that fails keeps no job from its end."""
    shop, got = Shop(monkeypatch), list[str]()

    def take(copy: Copy, artifacts: Mapping[str, Path]) -> str:
        got.append(copy.job.state)
        return ""

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(mirroring, "lacks", lambda _: "")
    monkeypatch.setattr(mirroring, "copy_of", lambda _, job: Copy(
        job=job, id="", spec={}, history={}, times=[]
    ))  # fmt: skip
    monkeypatch.setattr(mirroring, "write_report", lambda *_: None)
    monkeypatch.setitem(mirroring.MIRRORS, "mlflow", take)
    shop.submit("seen", trackers=["mlflow"])
    shop.work()
    job = shop.queue.job("seen")
    assert job.ended
    assert got[-1] == "succeeded"
    assert shop.store.list("jobs/seen/mirrored/") == [mirroring.marker(job, "mlflow")]
    asked, size = list[str](), shop.store.size

    def counted(key: str) -> int | None:
        asked.append(key)
        return size(key)

    monkeypatch.setattr(shop.store, "size", counted)
    del got[:]
    shop.work()
    assert got == []
    assert asked == [mirroring.marker(job, "mlflow")]
    shop.queue.remove("seen")
    assert shop.store.list("jobs/seen/") == []


def test_what_is_missing_here_is_said_with_how_to_fix_it(tmp_path: Path) -> None:
    if "not installed" not in lacks("mlflow", {}):
        assert "MLFLOW_TRACKING_URI" in lacks("mlflow", {})
    spec: dict[str, Any] = {"name": "seen", "trackers": ["mlflow"]}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec))
    environment = {n: "" for n in ("MLFLOW_TRACKING_URI",) if n in os.environ}
    done = Runner(tmp_path / "store", environment).run("validate", str(path))
    assert done.returncode == 0
    assert "trackers: mlflow " in done.stderr
    assert "trained without" in done.stderr


def test_no_password_of_a_spec_is_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within lists too; what holds none stays a number or a list."""
    shop = Shop(monkeypatch)
    address = "https://ann:geheim@host/x?sig=abc"
    arguments = {"paths": [address, {"other": address}], "units": [3, 4], "rate": 0.5, "on": True}
    spec = {"data": {"path": address}, "program": {"arguments": arguments}}
    copy = Copy(job=shop.submit("seen"), id="", spec=spec, history={}, times=[])
    found = copy.parameters
    assert "geheim" not in json.dumps(found)
    assert "abc" not in json.dumps(found)
    assert found["program.arguments.paths"][0] == "https://***@host/x?sig=***"
    assert [found[f"program.arguments.{name}"] for name in ("units", "rate", "on")] == [
        [3, 4],
        0.5,
        True,
    ]


def test_specs_without_trackers_have_the_digest_that_they_had() -> None:
    plain = parse({"name": "a"}, source="a")
    assert "trackers" not in plain.effective()
    one = parse({"name": "a", "trackers": ["tensorboard"]}, source="a")
    assert one.effective() == {**plain.effective(), "trackers": ["tensorboard"]}
    assert spec_digest(one.effective()) != spec_digest(plain.effective())
