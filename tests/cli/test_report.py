"""`runner report` and `runner export FILE.csv` on a real job that was killed on its way."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.queue.queue import utc_now
from runner.report.collect import collect
from tests.engine.test_on_buckets import SPEC
from tests.harness import Runner, finish

NAME = "report-me"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A job that died at step 20, was resumed, trained to its end and was evaluated."""
    folder = tmp_path_factory.mktemp("report")
    spec = folder / "job.json"
    spec.write_text(json.dumps({**SPEC, "name": NAME, "description": "<script>alert(1)</script>"}))
    runner = Runner(folder / "store")
    runner.ok("submit", str(spec), "--detach")
    finish(runner, NAME, "step:20")
    return runner


@pytest.fixture(scope="module")
def status(runner: Runner) -> dict[str, Any]:
    return runner.status(NAME)


@pytest.mark.slow
def test_the_page_of_a_killed_job(runner: Runner, status: dict[str, Any], tmp_path: Path) -> None:
    """Its path alone on standard output; numbers as in `status`; mistakes in pictures."""
    out = tmp_path / "out"
    done = runner.run("report", "-o", str(out))
    assert (done.returncode, done.stdout) == (0, f"{out / 'report.html'}\n")
    page = (out / "report.html").read_text()
    evaluation = status["evaluation"]
    for name in ("top_1", "top_5", "certainty", "consistency"):
        assert f"<dd>{evaluation[name]:.1%}</dd>" in page
    assert f"{status['history']['val_loss'][-1]:.4f}" in page
    assert "interrupted once" in page
    assert len(re.findall("<script", page)) == 2  # the page's own, and its data
    assert "&lt;script&gt;alert(1)" in page
    assert "each taken for" in page
    assert page.count("data:image/png;base64,") > 3
    pictures = {path.name for path in out.iterdir()}
    assert {f"{NAME}-loss.png", f"{NAME}-confusion.png", f"{NAME}-attempts.png"} <= pictures
    assert not [name for name in pictures if name.endswith(".part") or "-as-" in name]
    photos = [path.name for path in (out / "mistakes").iterdir()]
    assert len(photos) > 3
    assert all(re.fullmatch(rf"{NAME}-\d-as-(\d|other)\.png", name) for name in photos)


def test_the_mark_is_where_the_second_attempt_went_on(runner: Runner) -> None:
    """At the last checkpoint before the death, in epochs; the curves have every epoch once."""
    queue = runner.queue()
    (run,) = collect(queue, [], now=utc_now()).runs
    (mark,) = run.interruptions
    first, second = run.attempts[:2]
    assert mark is first
    assert mark.saved_step == second.first_step <= 20
    per_epoch = run.job.step / run.job.epoch
    assert mark.saved_epoch == pytest.approx(mark.saved_step / per_epoch)
    assert {len(values) for values in run.history.values()} == {run.job.epoch}
    assert run.measured is not None
    assert run.measured.class_names == tuple(map(str, range(10)))
    assert run.measured.confusion is not None
    assert np.trace(run.measured.confusion) / 360 == run.measured.number("top_1")


@pytest.mark.slow
def test_the_page_in_the_store_of_a_job_that_was_killed_twice(tmp_path: Path) -> None:
    """It is there from the first claim on, follows each attempt, and has each epoch once."""
    spec = tmp_path / "job.json"
    spec.write_text(json.dumps({**SPEC, "name": "alive", "report": {"publish": True}}))
    runner = Runner(tmp_path / "store")
    runner.ok("submit", str(spec), "--detach")
    path, pages = runner.store / "jobs/alive/report/index.html", list[str]()
    for death in ("step:20", "step:20", ""):
        done = runner.run("resume", "alive", sabotage=death)
        assert done.returncode == (-9 if death else 0), done.stderr[-2000:]
        pages.append(path.read_text())
    assert len(set(pages)) == 3
    assert "never interrupted" in pages[0]
    assert "interrupted twice" in pages[2]
    assert ['http-equiv="refresh"' in page for page in pages] == [True, True, False]
    found = re.search(r'id="curves">(.*?)</script>', pages[2], re.S)
    assert found
    status = runner.status("alive")
    for curve in json.loads(found[1]):
        assert curve["epochs"] == list(range(1, status["epoch"] + 1))
        assert len(curve["marks"]) == 2
    assert status["epoch"] == 4
    assert (path.parent / "alive-loss.png").is_file()


def test_no_tensorflow_is_imported(runner: Runner, tmp_path: Path) -> None:
    """Nor pyplot, whose state is everyone's; example images and the CSV included."""
    heavy = {"tensorflow", "keras", "matplotlib.pyplot", "pydantic"}
    report = ["report", "-o", str(tmp_path / "r"), "--store", str(runner.store)]
    export = ["export", NAME, str(tmp_path / "h.csv"), "--store", str(runner.store)]
    code = (
        "import sys\n"
        "from runner.cli.main import main\n"
        f"assert main({report!r}) == main({export!r}) == 0\n"
        f"print(sorted({heavy!r} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_an_unreadable_job_is_named_on_standard_error(runner: Runner, tmp_path: Path) -> None:
    """Exit 6, and the page is written all the same."""
    broken = runner.store / "jobs" / "broken" / "log" / "000000000000.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("nonsense")
    try:
        done = runner.run("report", "-o", str(tmp_path))
        assert done.returncode == 6
        assert "broken: cannot be read" in done.stderr
        page = (tmp_path / "report.html").read_text()
        assert "broken: cannot be read" in page
        assert f'id="run-{NAME}"' in page
        assert runner.run("report", NAME, "-o", str(tmp_path)).returncode == 0
    finally:
        broken.unlink()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("report", "nobody"), 3, "there is no job 'nobody'"),
        (("report", "-o", "/dev/null"), 2, "--output received '/dev/null'"),
        (("export", NAME, "nowhere/h.csv"), 2, "does not exist"),
        (
            ("export", NAME, "h.txt"),
            2,
            "ends in .keras, .weights.h5, .tflite, .onnx, .csv, or FOLDER/",
        ),
        (("export", "nobody", "h.csv"), 3, "there is no job 'nobody'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    runner: Runner, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = runner.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_history_as_csv_is_exact(
    runner: Runner, status: dict[str, Any], tmp_path: Path
) -> None:
    """Read back, every number is the one that `status` tells."""
    path = tmp_path / "history.csv"
    runner.ok("export", NAME, str(path))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(e + 1) for e in range(status["epoch"])]
    for name, values in status["history"].items():
        assert [float(row[name]) for row in rows] == values


def test_a_job_without_a_checkpoint_has_no_history(runner: Runner, tmp_path: Path) -> None:
    """Exit 4, and no file."""
    spec = tmp_path / "job.json"
    spec.write_text(json.dumps({**SPEC, "name": "fresh"}))
    runner.ok("submit", str(spec), "--detach")
    done = runner.run("export", "fresh", str(tmp_path / "h.csv"))
    assert done.returncode == 4
    assert "fresh has no checkpoint yet" in done.stderr
    assert not (tmp_path / "h.csv").exists()
    runner.ok("cancel", "fresh")
