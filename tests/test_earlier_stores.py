"""A store that an earlier version wrote is taken up where it stands, to the same bits.

Each archive in `tests/data/stores` was made by the version whose commit it is named by:
`python -m tests.test_earlier_stores tests/data/stores/COMMIT.tar.gz`. It holds a store with four
jobs, and what that version reached with the half-done job when nobody killed it.
"""

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Runner, assert_same, outcome

ARCHIVES = sorted((Path(__file__).parent / "data" / "stores").glob("*.tar.gz"))
#: the smallest training that has all there is: phases of an epoch, a best, callbacks with a state
SPEC: dict[str, Any] = {
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "augmentation": {},
    "model": {"name": "mlp", "arguments": {"units": [6], "dropout": 0.2, "batch_norm": True}},
    "training": {
        "epochs": 3,
        "batch_size": 64,
        "threads": 1,
        "early_stopping": {},
        "reduce_lr_on_plateau": {},
    },
    "checkpoint": {"every": "4 steps", "best": {}},
    "evaluation": {"augmented_passes": 1},
    "limits": {"deaths": 1000},
}
DEATH = "committed:8"  # in the second epoch, when one has been evaluated


def submit(runner: Runner, folder: Path, name: str, sabotage: str = "") -> None:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, **SPEC}))
    done = runner.run("submit", str(path), sabotage=sabotage)
    assert done.returncode == (-9 if sabotage else 0), done.stderr[-3000:]


def flip(path: Path, place: int) -> None:
    """Damage a file by one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def newest_pack(store: Path, job: str) -> Path:
    return max((store / "jobs" / job).rglob("packs/*"), key=lambda path: path.stat().st_mtime_ns)


def make(archive: Path) -> None:
    """Write the archive of the version that runs."""
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        runner, undisturbed = Runner(there / "store"), Runner(there / "undisturbed")
        submit(undisturbed, there, "half")
        submit(runner, there, "done")
        for name in ("half", "damaged", "ruined"):
            submit(runner, there, name, DEATH)
        flip(newest_pack(runner.store, "damaged"), -1)
        flip(runner.store / "jobs" / "ruined" / "log" / f"{0:012d}.json", 40)
        reached = {
            "half": outcome(undisturbed.status("half")),
            "done": outcome(runner.status("done")),
        }
        (there / "reached.json").write_text(json.dumps(reached))
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, "w:gz") as tar:
            for name in ("store", "reached.json"):
                tar.add(there / name, name)


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the store as it was left, and with what had been reached."""
    folder = tmp_path_factory.mktemp("left")
    with tarfile.open(request.param) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_the_half_done_job_is_resumed_to_the_same_bits(left: Path, tmp_path: Path) -> None:
    """To those of a run that nobody disturbed, by today's version and by the one that began it."""
    runner, fresh = Runner(left / "store", warm=True), Runner(tmp_path / "fresh", warm=True)
    before = runner.status("half")
    assert before["state"] == "lost"
    assert before["checkpoint"]["step"] == before["step"] > 18
    done = runner.run("resume", "half")
    assert done.returncode == 0, done.stderr[-3000:]
    resumed = runner.status("half")
    assert f"at step {before['step']}" in done.stderr, "it was not begun anew"
    assert resumed["state"] == "succeeded"
    reached = json.loads((left / "reached.json").read_text())["half"]
    assert resumed["step"] == reached["step"]
    if any("different numerics" in note for note in resumed["notes"]):
        return  # another processor or TensorFlow than the one that began it: it says so
    submit(fresh, tmp_path, "half")
    assert_same(resumed, fresh.status("half"))
    assert_same(resumed, reached)


def test_the_finished_job_is_reported_and_evaluated(left: Path, tmp_path: Path) -> None:
    runner = Runner(left / "store", warm=True)
    reached = json.loads((left / "reached.json").read_text())["done"]
    assert_same(runner.status("done"), reached)
    runner.ok("report", "done", "-o", str(tmp_path / "report"))
    top_1 = f"{100 * reached['evaluation']['top_1']:.1f}%"
    page = (tmp_path / "report/report.html").read_text()
    assert f"<dt>Top-1 accuracy</dt><dd>{top_1}</dd>" in page
    runner.ok("evaluate", "done")
    runner.ok("resume", "done")
    again = runner.status("done")
    assert again["final"] == reached["final"]
    if not any("different numerics" in note for note in again["notes"]):
        assert_same(again, reached)


def test_damaged_jobs_are_said(left: Path) -> None:
    """One resumes from the checkpoint before, one waits for a person."""
    runner = Runner(left / "store", warm=True)
    job = runner.job("damaged")
    assert job is not None
    done = runner.run("resume", "damaged")
    assert done.returncode == 0, done.stderr[-3000:]
    before = f"the one of step {job.checkpoints[1]['step']} is used: step {job.step}:"
    after = runner.status("damaged")
    assert any(f"a damaged checkpoint was passed over, {before}" in note for note in after["notes"])
    if not any("different numerics" in note for note in after["notes"]):
        assert_same(after, json.loads((left / "reached.json").read_text())["half"])
    shown = runner.run("status", "ruined", "--json")
    assert json.loads(shown.stdout)["state"] == "unreadable"


if __name__ == "__main__":
    make(Path(sys.argv[1]))
