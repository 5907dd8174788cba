"""Cells that people write: a function becomes a job, and the end of a cell saves."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runner
from runner.cli import inline
from runner.cli.notebook import make
from runner.errors import NotFoundError, SpecError
from tests.cli.notebooks import JOB, SPECS, execute, outputs_of
from tests.harness import ENVIRONMENT, REPOSITORY, Runner, wait_until

SHORT = """
import keras
import numpy as np
import runner


def program(*, units: int = 4) -> runner.Program:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((16, 2), "float32"), np.ones((16, 1), "float32")
    return runner.Program(model=model, fit={"x": runner.Batches(x, y, batch_size=8, seed=1)})
"""
SUBMIT = 'runner.submit(program, name="short", arguments={"units": 3}, training={"epochs": 1})'


@pytest.mark.slow
def test_a_function_becomes_a_job_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a real kernel: once it is in a file. Its file counts, also where it was changed since."""
    for name, value in {**ENVIRONMENT, "RUNNER_STORE": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("RUNNER_CODE", raising=False)
    other = SUBMIT.replace("units", "width").replace("short", "other")
    in_cell, _, _, submitted, trained, _, old, new, again = outputs_of(
        tmp_path,
        f"{SHORT}\n{SUBMIT}",
        "!mkdir -p programs",
        f"%%writefile programs/short.py\n{SHORT}",
        f"from programs.short import program\n{SUBMIT}",
        'runner.run("resume");',
        f"%%writefile programs/short.py\n{SHORT.replace('units', 'width')}",
        SUBMIT.replace("short", "other"),
        other,
        other,
    )
    assert "is defined in a notebook" in in_cell
    assert "%%writefile programs/houses.py" in in_cell
    assert "'short'" in submitted
    assert "short: succeeded" in trained
    assert "Did you mean" in old or "arguments.units" in old
    assert "'other'" in new
    assert "other: already there, queued" in again
    job = Runner(tmp_path / "store").job("short")
    assert job is not None
    assert job.state.value == "succeeded"


LAMBDA = "program = lambda **_: None\n"
INNER = "def outer():\n    def program(): ...\n    return program\n\n\nhouses = outer()\n"


@pytest.mark.parametrize(
    ("file", "text", "name", "said"),
    [
        ("programs/a1.py", INNER, "houses", "they call what is named `program` there"),
        ("programs/a2.py", "def houses(): ...\n", "houses", "named `program` there"),
        (
            "a3.py",
            "def program(): ...\n",
            "program",
            "programs/a3.py, or offer it as an entry point",
        ),
        ("programs/a4.py", LAMBDA, "program", ""),
        ("programs/a5.py", INNER.replace("houses", "program"), "program", ""),
        (
            "a6.py",
            "import functools\nprogram = functools.partial(print)\n",
            "program",
            "received a partial",
        ),
    ],
)
def test_a_function_that_no_worker_finds_is_refused(
    file: str, text: str, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file calls `program` is found, whatever it is."""
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("RUNNER_CODE", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    if said:
        with pytest.raises(SpecError, match=said):
            runner.submit(getattr(module, name), name="a")
        assert not (tmp_path / "store").exists()
        return
    assert inline._entry(getattr(module, name)) == module.__name__.rpartition(".")[2]
    assert os.environ.pop("RUNNER_CODE") == str(tmp_path)


def test_all_mistakes_of_a_submitted_function_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RUNNER_CODE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/b1.py").write_text("def program(*, units: int = 1): ...\n")
    program = importlib.import_module("programs.b1").program
    with pytest.raises(SpecError) as told:
        runner.submit(program, name="a", arguments={"unit": 1}, training={"epoch": 2})
    assert str(told.value).startswith("runner.submit(name='a'): 2 mistakes")
    assert all(word in str(told.value) for word in ("units", "epochs"))
    with pytest.raises(SpecError, match="not JSON serializable"):
        runner.submit(program, name="a", arguments={"units": np.int64(1)})
    with pytest.raises(NotFoundError, match="there is no such job"):
        runner.submit(program, name="a", after=["b"])
    with pytest.raises(SpecError, match="no-such-file"):
        runner.submit(program, name="a", path="no-such-file")
    with pytest.raises(SpecError, match="submit several in a loop"):
        runner.submit(program, name="a", sweep=[{"units": 1}])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("RUNNER_CODE", str(tmp_path / "elsewhere"))
    with pytest.raises(SpecError, match="but RUNNER_CODE is"):
        runner.submit(program, name="a")
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_function_of_an_installed_package_is_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its entry point; RUNNER_CODE plays no part."""
    (tmp_path / "offering-1.dist-info").mkdir()
    (tmp_path / "offering-1.dist-info/METADATA").write_text("Name: offering\nVersion: 1\n")
    (tmp_path / "offering-1.dist-info/entry_points.txt").write_text(
        "[runner.programs]\nflat = offering:make\n"
    )
    (tmp_path / "offering.py").write_text(SHORT.replace("program(", "make("))
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("RUNNER_CODE", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(REPOSITORY)]))
    monkeypatch.syspath_prepend(tmp_path)
    make = importlib.import_module("offering").make
    assert runner.submit(make, name="a", arguments={"units": 2}, seed=3) == "a"
    spec = Runner(tmp_path / "store").queue().spec("a")
    assert (spec["program"]["name"], spec["program"]["arguments"]) == ("flat", {"units": 2})
    assert spec["seed"] == 3
    assert "RUNNER_CODE" not in os.environ


@pytest.mark.chaos
@pytest.mark.parametrize("platform", ["colab", "kaggle"])
def test_it_runs_and_its_progress_stays_in_its_place(
    platform: str, kernel: str, tmp_path: Path
) -> None:
    """All cells but the platform's own, on a new machine; progress leaves no flood of lines."""
    notebook = execute(make(platform, SPECS, store="", requirement=""), kernel, tmp_path)
    outputs = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    resumed = outputs['runner.run("work", "--until-empty");']
    text = "".join(output.text for output in resumed if output.output_type == "stream")
    assert "small: succeeded: test top_1" in text
    assert "\r" not in text
    assert len(text.splitlines()) < 12, text
    places = [output for output in resumed if output.output_type == "display_data"]
    assert len(places) == 1, "one line, written again and again"
    shown = [output.data for output in outputs[_last(outputs)] if "data" in output]
    assert any("srcdoc" in data.get("text/html", "") for data in shown), "no report"
    assert "succeeded" in str(outputs['runner.run("status");'])


def _last(outputs: dict[str, Any]) -> str:
    return next(source for source in outputs if "runner.show" in source)


CELL = """
import sys
sys.argv = ["kernel"]
import runner
code = runner.run(*{arguments!r})
print("code", code, flush=True)
"""


LONG = {
    **JOB,
    "training": {"epochs": 4000, "batch_size": 64},
    "checkpoint": {"every": "1 epoch"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    ["the stop button", pytest.param("the kernel is killed", marks=pytest.mark.chaos)],
)
def test_the_end_of_a_cell_saves_and_lets_go(tmp_path: Path, end: str) -> None:
    """The stop button interrupts the kernel's whole group; a kernel may also just be gone."""
    job = tmp_path / "job.json"
    job.write_text(json.dumps(LONG))
    runner = Runner(tmp_path / "store")
    kernel = subprocess.Popen(
        [sys.executable, "-c", CELL.format(arguments=["submit", str(job)])],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **ENVIRONMENT, "RUNNER_STORE": str(runner.store)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_until(lambda: (found := runner.job("small")) is not None and found.step > 0, kernel)
    if end == "the stop button":
        os.killpg(kernel.pid, signal.SIGINT)
        out, _ = kernel.communicate(timeout=120)
        assert "stopped with the progress saved" in out
        assert re.search(r"code 130$", out.strip())
    else:
        kernel.kill()
        kernel.wait()
        until = time.monotonic() + 60
        while time.monotonic() < until and _state(runner) == "running":
            time.sleep(0.1)
    assert _state(runner) == "queued"


def _state(runner: Runner) -> str:
    job = runner.job("small")
    assert job is not None
    return job.state.value
