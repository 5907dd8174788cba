"""The notebooks are valid, hold what they promise, and run from the first cell to the last."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from runner.cli.live import in_notebook
from runner.cli.main import main
from runner.cli.notebook import FOLDER, make
from runner.errors import SpecError
from tests.harness import ENVIRONMENT, REPOSITORY, Runner, wait_until

STORES = ("", "gs://bucket/runs", "s3://bucket/runs", "az://box/runs")
JOB = {
    "name": "small",
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "model": {"name": "mlp", "arguments": {"units": [8]}},
    "training": {"epochs": 2, "batch_size": 64},
    "evaluation": {"augmented_passes": 0},
}


def text_of(notebook: dict[str, Any], kind: str = "") -> str:
    cells = [cell for cell in notebook["cells"] if not kind or cell["cell_type"] == kind]
    return "\n".join("".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("platform", ["colab", "kaggle"])
@pytest.mark.parametrize("store", STORES)
def test_each_is_valid_and_complete(platform: str, store: str) -> None:
    notebook = make(platform, store=store, requirement="keras-runner==0.1.0")
    nbformat.validate(nbformat.from_dict(notebook))  # type: ignore[no-untyped-call]
    text = text_of(notebook)
    assert "{{" not in text
    for part in ("%pip install", "RUNNER_STORE", '"doctor"', '"work"', '"status"', '"report"'):
        assert part in text, f"no {part}"
    assert not store or json.dumps(store) in text
    assert ("keras-runner[s3]==0.1.0" in text) == store.startswith("s3")
    code = [line for line in text_of(notebook, "code").splitlines() if not line.startswith("%")]
    ast.parse("\n".join(code))


def test_what_drive_and_the_working_folder_cannot_promise_is_said() -> None:
    colab = text_of(make("colab", store="", requirement="x"))
    assert "One session at a time" in colab
    assert colab.rstrip().endswith("drive.flush_and_unmount()")
    kaggle = text_of(make("kaggle", store="", requirement="x"))
    assert "Save Version" in kaggle
    assert "No other machine can see it" in kaggle


def test_no_credentials_get_into_a_notebook() -> None:
    with pytest.raises(SpecError, match="no credentials"):
        make("colab", store="sftp://me:secret@nas/runs", requirement="x")


@pytest.mark.parametrize(
    ("requirement", "line"),
    [
        ("keras-runner==0.1.0", '"keras-runner[s3]==0.1.0"'),
        ("keras-runner[ray]>=0.1", '"keras-runner[ray,s3]>=0.1"'),
        ("git+https://x/y.git", '"keras-runner[s3] @ git+https://x/y.git"'),
    ],
)
def test_the_stores_client_is_installed_too(requirement: str, line: str) -> None:
    notebook = make("colab", store="s3://bucket/runs", requirement=requirement)
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    assert any(f"%pip install --quiet {line}" in source for source in sources)


@pytest.mark.parametrize(
    "options", [["-o", ""], ["--store", ""], ["--install", '${HOME}"'], ["--install", "a\nb"]]
)
def test_what_no_notebook_could_use_is_refused(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["notebook", "colab", *options]) == 2
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.ipynb"
    runner = Runner(tmp_path)
    said = runner.ok("notebook", "kaggle", "-o", str(path), "--install", "git+https://x/y.git")
    assert said.strip() == str(path)
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    assert '%pip install --quiet "git+https://x/y.git"' in text_of(notebook)


def test_the_texts_are_in_the_package() -> None:
    """What is beside a module inside the package goes into the wheel."""
    assert {path.stem for path in FOLDER.glob("*.md")} >= {"colab", "kaggle", "work", "other"}
    assert FOLDER.is_relative_to(REPOSITORY / "runner")


def test_a_notebook_is_told_from_a_terminal() -> None:
    assert in_notebook({"RUNNER_IN_PLACE": "1"})
    assert in_notebook({"JPY_PARENT_PID": "7", "TERM": "xterm-color"})
    assert not in_notebook({"TERM": "xterm-256color"})
    assert not in_notebook({"JPY_PARENT_PID": "7", "TERM": "linux"})


def test_a_command_and_a_page_show_below_their_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a real kernel, without a training."""
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path / "store"))
    (tmp_path / "page.html").write_text('<p>it\'s "here"</p>')
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for source in ('import runner; runner.run("status");', 'runner.show("page.html")'):
        cell = nbformat.v4.new_code_cell(source)  # type: ignore[no-untyped-call]
        notebook.cells.append(cell)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=100, resources=resources).execute()
    said, shown = (cell.outputs for cell in notebook.cells)
    assert "no jobs" in "".join(output.get("text", "") for output in said)
    assert not any(output.output_type == "execute_result" for output in said)
    assert 'srcdoc="&lt;p&gt;' in shown[0].data["text/html"]


@pytest.mark.chaos
def test_it_runs_and_its_progress_stays_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cells but the platform's own, in a real kernel; progress leaves no flood of lines."""
    nbclient = pytest.importorskip("nbclient")
    for name, value in {**ENVIRONMENT, "RUNNER_STORE": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    made = make("colab", store="", requirement="x")
    notebook = nbformat.reads(json.dumps(made), as_version=4)  # type: ignore[no-untyped-call]
    (job,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    job.source = f"job = {JOB!r}"
    client = nbclient.NotebookClient(
        notebook,
        timeout=400,
        skip_cells_with_tag="platform",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
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
