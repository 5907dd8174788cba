"""So many epochs and then more, as another job, end with the bits of all of them in one go.

Real processes, really killed, on a folder and on the S3 and GCS servers. What the second job
begins with is its own: the first one is removed before it is trained.
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Runner, assert_same, finish, sets
from tests.store.servers import serving

SPEC: dict[str, Any] = {
    "name": "digits",
    "seed": 3,
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "augmentation": {"flip": "horizontal", "rotation": 0.1, "zoom": 0.1},
    "model": {"name": "mlp", "arguments": {"dropout": 0.2}},
    "training": {"epochs": 2, "batch_size": 200, "threads": 1},
    "checkpoint": {"every": "2 steps", "best": {"monitor": "val_loss"}},
    "limits": {"deaths": 1000},
    "evaluation": {"augmented_passes": 2, "checkpoint": "best"},
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "digits.json"
    path.write_text(json.dumps(SPEC))
    return path


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Runner:
    """With a trained job."""
    runner = Runner(tmp_path_factory.mktemp("store"), warm=True)
    runner.ok("submit", str(spec))
    return runner


def in_one_go(runner: Runner, spec: Path, epochs: int) -> dict[str, Any]:
    runner.ok("submit", str(spec), *sets({"name": f"all-{epochs}", "training.epochs": epochs}))
    return runner.status(f"all-{epochs}")


def extended(runner: Runner, spec: Path, deaths: list[str], epochs: int) -> dict[str, Any]:
    """Train half of the epochs and then all, with half of the deaths each."""
    half = len(deaths) // 2
    runner.ok("submit", str(spec), "--detach", *sets({"training.epochs": epochs // 2}))
    finish(runner, "digits", *deaths[:half])
    assert runner.ok("extend", "digits", "--epochs", str(epochs), "--detach") == "digits-2\n"
    assert runner.ok("extend", "digits", "--epochs", str(epochs), "--detach") == "digits-2\n"
    runner.ok("remove", "digits", "--yes")
    status = finish(runner, "digits-2", *deaths[half:])
    assert status["parent"]["job"] == "digits"
    return status


@pytest.mark.slow
def test_extended_and_killed_is_what_one_go_is(spec: Path, runner: Runner, tmp_path: Path) -> None:
    whole = in_one_go(runner, spec, 4)
    killed = extended(Runner(tmp_path, warm=True), spec, ["step:4", "committed:2"], 4)
    assert_same(killed, whole)


MOMENTS = ("claimed", "step:2", "step:5", "committed:2", "commit:2", "epoch:1", "validation:2")


@pytest.fixture(params=["file", "s3", "gcs"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    if request.param == "file":
        yield Runner(tmp_path, warm=True)
        return
    with serving(request.param) as server:
        yield Runner(Path(), server.environment(), url=server.url("runs"), warm=True)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_five_and_five_with_twenty_deaths(spec: Path, runner: Runner, anywhere: Runner) -> None:
    """Ten in each half, at random."""
    whole = in_one_go(runner, spec, 10)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    deaths = [random.Random(seed + n).choice(MOMENTS[:3]) for n in range(20)]
    deaths[9] = deaths[19] = random.Random(seed).choice(MOMENTS[3:])
    assert_same(extended(anywhere, spec, deaths, 10), whole)


@pytest.mark.slow
def test_what_fits_is_taken_and_the_rest_is_named(runner: Runner, tmp_path: Path) -> None:
    """Another optimizer can't go on; the weights that fit can be begun with, from job or file."""
    other = {**SPEC, "optimizer": {"name": "sgd"}, "training": {"epochs": 3, "batch_size": 200}}
    path = tmp_path / "other.json"
    path.write_text(json.dumps({**other, "name": "other"}))
    done = runner.run("submit", str(path), "--from", "digits")
    assert done.returncode == 1
    assert "optimizer/00000/sgd/iteration is not in the checkpoint" in done.stderr
    assert 'Build and compile the same as before. Or take less: "take": "weights"' in done.stderr
    weights = sets({"from.job": "digits", "from.take": "weights", "training.epochs": 1})
    runner.ok("submit", str(path), *weights, *sets({"name": "weights"}))
    status = runner.status("weights")
    assert status["epoch"] == 1
    assert status["notes"][0].startswith("began with the weights of digits at step ")
    assert not list((runner.store / "jobs/weights/checkpoints").glob("t0-*"))
    model = tmp_path / "digits.weights.h5"
    runner.ok("export", "digits", str(model))
    file = sets({"name": "file", "from.path": str(model), "training.epochs": 1})
    runner.ok("submit", str(path), *file)
    assert runner.status("file")["history"] == status["history"]


def test_what_cannot_be_gone_on_from_is_said(runner: Runner, spec: Path) -> None:
    for arguments, code, said in (
        (("extend", "digits", "--epochs", "2"), 2, "is after epoch 2. Give more epochs, in all."),
        (("extend", "nobody", "--epochs", "4"), 3, "there is no job 'nobody'"),
        (
            ("submit", str(spec), "--from", "digits@77", *sets({"name": "x"})),
            3,
            "has no checkpoint 77. It has final, best, latest, ",
        ),
        (
            ("submit", str(spec), "--from", "digits@newest", *sets({"name": "x"})),
            2,
            "from.checkpoint",
        ),
        (
            ("submit", str(spec), *sets({"name": "x", "from": {"take": "all"}})),
            2,
            'from: expected {"job": NAME} or {"path": FILE}',
        ),
    ):
        done = runner.run(*arguments)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr[-800:]
        assert "Traceback" not in done.stderr
    assert not (runner.store / "jobs/x").exists()


@pytest.mark.slow
def test_people_see_parent_and_child_as_one(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    runner.ok("extend", "digits", "--epochs", "3")
    detail = runner.ok("status", "digits-2")
    assert "parent" in detail
    assert "digits, epoch 2, step " in detail
    assert "digits had training.epochs 2, now 3" in detail
    ends = {"checkpoint.best": None, "evaluation.checkpoint": "final"}
    changes = sets({"name": "x", "training.epochs": 3, **ends})
    runner.ok("submit", str(tmp_path / "spec.json"), "--from", "digits", "--detach", *changes)
    assert 'checkpoint.best.monitor "val_loss", now unset' in runner.ok("status", "x")
    runner.ok("remove", "x", "--yes")
    compared = runner.ok("compare", "digits", "digits-2")
    curve = next(line for line in compared.splitlines() if line.startswith("  digits-2"))
    assert len(curve.split()[1]) == 4
    assert curve.split()[1][2] == "┃"
    assert "training.epochs" in compared
    runner.ok("report", "digits-2", "-o", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "A line marks epoch 2: up to it this is the curve of" in page
    held = json.loads(runner.ok("du", "digits", "digits-2", "--json"))
    assert held["digits-2"]["checkpoints"] > held["digits-2"]["logs"] > 0
    folders = {"logs": ("logs", "failures"), "checkpoints": ("packs", "checkpoints")}
    for kind, names in folders.items():
        paths = [path for name in names for path in runner.store.glob(f"jobs/digits-2/{name}/*")]
        assert held["digits-2"][kind] == sum(path.stat().st_size for path in paths)


def test_remove_asks_where_it_can_and_names_the_children(runner: Runner, spec: Path) -> None:
    runner.ok("submit", str(spec), "--detach", *sets({"name": "gone"}))
    runner.ok("submit", str(spec), "--detach", *sets({"name": "later", "after": ["gone"]}))
    done = runner.run("remove", "gone")
    assert (done.returncode, "give --yes" in done.stderr) == (2, True)
    done = runner.run("remove", "gone", "--yes")
    assert "later waits for gone, and would wait in vain" in done.stderr
    assert not (runner.store / "jobs/gone").exists()
    runner.ok("submit", str(spec), "--detach", *sets({"name": "gone", "seed": 4}))
    runner.ok("remove", "gone", "later", "--yes")


@pytest.mark.slow
def test_doctor_removes_what_a_submit_left(runner: Runner) -> None:
    left = runner.store / "jobs/half/packs/t0-0123456789abcdef0123456789abcdef.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    os.utime(left, (1e9, 1e9))
    said = runner.ok("doctor")
    assert "half: it has no record: its submit was cut off: no job needs it, --repair" in said
    assert "half: it has no record: its submit was cut off: removed" in runner.ok(
        "doctor", "--repair"
    )
    assert not (runner.store / "jobs/half").exists()
