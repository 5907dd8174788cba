"""The notebooks are valid, hold what they promise, and run from the first cell to the last."""

import ast
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

import runner
from runner.cli import inline
from runner.cli import notebook as module
from runner.cli.live import in_notebook
from runner.cli.main import main
from runner.cli.notebook import FOLDER, make
from runner.errors import NotFoundError, SpecError
from runner.spec import parse
from runner.store.filesystem import open_store
from tests.harness import ENVIRONMENT, REPOSITORY, Runner, sets, wait_until
from tests.store.servers import serving

STORES = ("", "gs://bucket/runs", "s3://bucket/runs", "az://box/runs")
JOB = {
    "name": "small",
    "data": {"name": "digits", "arguments": {"image_size": 8}},
    "model": {"name": "mlp", "arguments": {"units": [8]}},
    "training": {"epochs": 2, "batch_size": 64},
    "evaluation": {"augmented_passes": 0},
}
SPECS = [parse(JOB, source="the test")]


def text_of(notebook: dict[str, Any], kind: str = "") -> str:
    cells = [cell for cell in notebook["cells"] if not kind or cell["cell_type"] == kind]
    return "\n".join("".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("platform", ["colab", "kaggle"])
@pytest.mark.parametrize("store", STORES)
def test_each_is_valid_and_complete(platform: str, store: str) -> None:
    notebook = make(platform, SPECS, store=store, requirement="git+https://x/y.git")
    nbformat.validate(nbformat.from_dict(notebook))  # type: ignore[no-untyped-call]
    text = text_of(notebook)
    assert "{{" not in text
    for part in ("%pip install", "RUNNER_STORE", '"doctor"', '"work"', '"status"', '"report"'):
        assert part in text, f"no {part}"
    assert not store or json.dumps(store) in text
    client = ' "s3fs>=2024.12"' if store.startswith("s3") else ""
    assert f'%pip install --quiet "git+https://x/y.git"{client}\n' in text
    assert ("account" in text_of({"cells": notebook["cells"][2:]})) == store.startswith(
        ("gs", "s3")
    )
    assert "another account" not in text
    code = [line for line in text_of(notebook, "code").splitlines() if not line.startswith("%")]
    ast.parse("\n".join(code))


def test_what_drive_and_the_working_folder_cannot_promise_is_said() -> None:
    colab = text_of(make("colab", SPECS, store="", requirement="x"))
    assert "One session at a time" in colab
    assert colab.rstrip().endswith("drive.flush_and_unmount()")
    kaggle = text_of(make("kaggle", SPECS, store="", requirement="x"))
    assert "Save Version" in kaggle
    assert "No other machine can see it" in kaggle


def test_only_a_bucket_is_elsewhere_on_kaggle() -> None:
    for store in ("", "/kaggle/working/mine", "gs://bucket/runs"):
        text = text_of(make("kaggle", SPECS, store=store, requirement="x"))
        assert ("live elsewhere" in text) == (store == "gs://bucket/runs")
        assert ("session's own disk: they go with it" in text) == (store != "gs://bucket/runs")


@pytest.mark.parametrize(
    ("platform", "store", "known"),
    [
        ("colab", "/tmp/x", False),
        ("colab", "runs", False),
        ("colab", "file:///tmp/x", False),
        ("colab", "/content/drive/../x", False),
        ("kaggle", "/content/drive/MyDrive/x", False),
        ("colab", "/content/drive/MyDrive/x", True),
        ("kaggle", "file:///kaggle/working/x", True),
    ],
)
def test_a_folder_of_this_machine_is_no_store_of_a_notebook(
    platform: str, store: str, known: bool
) -> None:
    if known:
        text = text_of(make(platform, SPECS, store=store, requirement="x"))
        assert f'["RUNNER_STORE"] = "{store.removeprefix("file://")}"' in text
        assert ("drive.mount" in text) == (platform == "colab")
        return
    with pytest.raises(SpecError, match="a folder of this machine"):
        make(platform, SPECS, store=store, requirement="x")


def test_a_notebook_with_other_content_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless -o names it; the same one is written again."""
    monkeypatch.chdir(tmp_path)
    command = ["notebook", "colab", "--install", "x"]
    assert [main(command), main(command)] == [0, 0]
    path = tmp_path / "runner-colab.ipynb"
    path.write_text("mine")
    assert main(command) == 2
    assert "-o runner-colab.ipynb writes over it" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main([*command, "-o", path.name]) == 0
    assert path.read_text() != "mine"


def test_what_is_required_is_named_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["notebook"])
    assert "are required: platform\n" in capsys.readouterr().err


def test_no_credentials_get_into_a_notebook() -> None:
    with pytest.raises(SpecError, match="no credentials"):
        make("colab", SPECS, store="sftp://me:secret@nas/runs", requirement="x")


@pytest.mark.parametrize("platform", ["colab", "kaggle"])
@pytest.mark.parametrize("said", ["variable", "settings", "AWS"])
def test_a_server_of_ones_own_is_in_the_notebook_and_its_keys_are_not(
    platform: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cell sets, and the keys from the platform's secrets, open the store."""
    with serving("s3") as server:
        url, options = server.url("runs"), server.options
        settings = {"stores": {url: {"storage_options": options}}}
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        given = {
            "variable": ("RUNNER_STORAGE_OPTIONS", json.dumps(options)),
            "settings": ("RUNNER_SETTINGS", str(tmp_path / "settings.json")),
            "AWS": ("AWS_ENDPOINT_URL", options["endpoint_url"]),
        }
        with monkeypatch.context() as here:
            here.setenv(*given[said])
            notebook = make(platform, SPECS, store=url, requirement="x")
        assert options["secret"] not in json.dumps(notebook)
        cell = next(
            text
            for one in notebook["cells"]
            if "SECRET" in (text := "".join(one["source"])) and "import" in text
        )
        keys = {"AWS_ACCESS_KEY_ID": options["key"], "AWS_SECRET_ACCESS_KEY": options["secret"]}
        code = re.sub(r"(?m)^from .*", "", cell)
        code = code.replace("UserSecretsClient().get_secret(name)", "keys[name]")
        for name in (*keys, "RUNNER_STORE", "RUNNER_STORAGE_OPTIONS", "RUNNER_DATA_FROM"):
            monkeypatch.setenv(name, "")  # set back at the end of the test
        monkeypatch.delenv("RUNNER_STORAGE_OPTIONS")
        exec(code.replace("userdata.get(name)", "keys[name]"), {"keys": keys})
        assert os.environ["RUNNER_STORE"] == url
        open_store(url).put("a.bin", b"there")
        assert server.store("runs").read("a.bin") == b"there"


def test_an_endpoint_with_credentials_gets_into_no_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"endpoint_url": "http://minio.lab:9000", "key": "ann", "secret": "sesame"}
    monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", json.dumps(options))
    assert "minio.lab" in json.dumps(make("colab", SPECS, store="s3://b/runs", requirement="x"))
    said = capsys.readouterr().err
    assert "does not have the storage options" in said
    assert "sesame" not in said
    options["endpoint_url"] = "http://ann:sesame@minio.lab:9000"
    monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", json.dumps(options))
    with pytest.raises(SpecError, match="holds credentials"):
        make("colab", SPECS, store="s3://b/runs", requirement="x")


@pytest.mark.parametrize(
    ("requirement", "line"),
    [
        ("keras-runner[ray]>=0.1", '"keras-runner[ray]>=0.1" "s3fs>=2024.12"'),
        ("git+https://x/y.git", '"git+https://x/y.git" "s3fs>=2024.12"'),
    ],
)
def test_the_stores_client_is_installed_too(requirement: str, line: str) -> None:
    notebook = make("colab", SPECS, store="s3://bucket/runs", requirement=requirement)
    assert f"%pip install --quiet {line}" in text_of(notebook)


def test_kaggle_is_asked_for_a_gpu_and_internet() -> None:
    """As the metadata of a notebook say that was downloaded from there."""
    asked = make("kaggle", SPECS, store="", requirement="x")["metadata"]["kaggle"]
    assert asked["isInternetEnabled"] is asked["isGpuEnabled"] is True
    assert asked["accelerator"] == "nvidiaTeslaT4"


def test_a_runner_that_was_never_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PACKAGE", "no-such-package")
    assert main(["notebook", "colab"]) == 2
    assert "From your clone: pip install ." in capsys.readouterr().err
    assert main(["notebook", "colab", "--install", "git+https://x/y.git"]) == 0


def test_it_holds_the_jobs_that_are_given(tmp_path: Path) -> None:
    """All of a sweep, with what --set changes; what the notebook lacks is said."""
    (tmp_path / "odd-1.dist-info").mkdir()
    (tmp_path / "odd-1.dist-info/METADATA").write_text("Name: odd\nVersion: 1\n")
    (tmp_path / "odd-1.dist-info/entry_points.txt").write_text("[runner.models]\nodd = odd\n")
    (tmp_path / "odd.py").write_text("def build(*, input_shape, classes): ...")
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    runner = Runner(tmp_path / "store", environment={"PYTHONPATH": paths})
    job = tmp_path / "mine.json"
    job.write_text(
        json.dumps({**JOB, "$schema": "./.schema.json", "sweep": [{"name": "a"}, {"name": "b"}]})
    )
    (tmp_path / "x.npz").touch()
    path = tmp_path / "runner-colab.ipynb"
    fields = {"training.epochs": 7, "data": {"name": "npz", "path": str(tmp_path / "x.npz")}}
    fields |= {"requirements": {"labels": ["lab"], "devices": 2}, "after": ["first"]}
    changes = sets({**fields, "model": {"name": "odd"}})
    done = runner.run("notebook", "colab", str(job), *changes, "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert "a stays queued there: the notebook's worker has no label 'lab'" in done.stderr
    assert "stays queued there: colab has no more GPUs than 1" in done.stderr
    assert "waits for 'first', which is no job of the notebook" in done.stderr
    assert f"data.path {tmp_path / 'x.npz'} is of this machine" in done.stderr
    assert "'odd' is of the package odd" in done.stderr
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    given: dict[str, Any] = {}
    exec(cell.source, given)
    jobs = {job["name"]: job["training"]["epochs"] for job in given["jobs"]}
    assert jobs == {"a": 7, "b": 7}
    (tmp_path / "a.json").write_text(json.dumps(given["jobs"][0]))
    runner.ok(
        "validate", str(tmp_path / "a.json"), "--set", "data.name=digits", "--set", "data.path=null"
    )


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
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path / "store"))
    (tmp_path / "page.html").write_text('<p>it\'s "here"</p>')
    cells = ('import runner; runner.run("status");', 'runner.show("page.html")')
    said, shown = outputs_of(tmp_path, *cells)
    assert "no jobs" in said
    assert "execute_result" not in said
    assert 'srcdoc="&lt;p&gt;' in shown


def outputs_of(folder: Path, *sources: str) -> list[str]:
    """What each cell of a notebook shows, in a real kernel; an error does not end it."""
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for source in sources:
        notebook.cells.append(nbformat.v4.new_code_cell(source))  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(notebook, timeout=200, resources=resources, allow_errors=True)
    client.execute()
    return [str(cell.outputs) for cell in notebook.cells]


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


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the kernel of a new environment: what runner needs, without runner or an index."""
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    (found,) = home.glob("lib/python*/site-packages")
    (found / "packages.pth").write_text(sysconfig.get_path("purelib"))
    argv = [str(home / "bin/python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    place = tmp_path / "jupyter/kernels/new"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "new", "language": "python"})
    )
    variables = {**ENVIRONMENT, "RUNNER_STORE": str(tmp_path / "store"), "PIP_NO_INDEX": "1"}
    for name, value in {**variables, "JUPYTER_PATH": str(tmp_path / "jupyter")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return "new"


def execute(notebook: dict[str, Any], kernel: str, folder: Path) -> Any:
    """Run the cells but the platform's own; the notebook then."""
    nbclient = pytest.importorskip("nbclient")
    found = nbformat.reads(json.dumps(notebook), as_version=4)  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(
        found,
        timeout=400,
        kernel_name=kernel,
        skip_cells_with_tag="platform",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return found


@pytest.mark.slow
def test_it_carries_the_package(kernel: str, tmp_path: Path) -> None:
    """A new machine without an index gets this very runner, its user's networks among it."""
    notebook = make("kaggle", SPECS, store="", requirement="")
    assert len(json.dumps(notebook)) < 960_000  # Kaggle takes a megabyte
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    last = next(number for number, text in enumerate(texts) if '"submit"' in text)
    quick = json.loads(json.dumps(notebook["cells"][: last + 1]).replace("doctor", "--version"))
    execute({**notebook, "cells": quick}, kernel, tmp_path)
    (installed,) = tmp_path.glob("environment/lib/python*/site-packages/runner")
    mine = REPOSITORY / "runner"
    for path in mine.rglob("*.*"):
        if path.suffix != ".pyc":
            assert (installed / path.relative_to(mine)).read_bytes() == path.read_bytes()
    job = Runner(tmp_path / "store").job("small")
    assert job is not None
    assert job.state.value == "queued"


URL = "https://github.com/you/study"
PROGRAM = """
import keras
import numpy as np
import runner
from numbers_of import COUNT


def program(*, units: int = 4) -> runner.Program:
    import extra  # which requirements.txt names

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((COUNT, 2), "float32"), np.ones((COUNT, 1), "float32")
    batches = runner.Batches(x, y, batch_size=8, seed=extra.SEED)
    return runner.Program(model=model, fit={"x": batches})
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the tag v1, which git finds at URL without a network; its spec too."""
    folder = tmp_path / "study"
    (folder / "programs").mkdir(parents=True)
    (folder / "programs/flat.py").write_text(PROGRAM)
    (folder / "numbers_of.py").write_text("COUNT = 16\n")
    (folder / ".env").write_text("SECRET=1\n")
    wheel = "extra-1-py3-none-any.whl"
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        archive.writestr("extra.py", "SEED = 7\n")
        archive.writestr(
            "extra-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: extra\nVersion: 1\n"
        )
        archive.writestr(
            "extra-1.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("extra-1.dist-info/RECORD", "")
    (folder / "requirements.txt").write_text(f"./{wheel}\n")
    job = {"name": "flat", "program": {"name": "flat", "arguments": {"units": 3}}}
    (tmp_path / "flat.json").write_text(json.dumps({**job, "training": {"epochs": 1}}))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "3")
    pairs = {f"url.file://{folder}.insteadOf": URL, "user.name": "a", "user.email": "a@b"}
    for number, (key, value) in enumerate(pairs.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    monkeypatch.delenv("RUNNER_CODE", raising=False)
    for command in ("init -q", "add .", "commit -qm one", "tag -a v1 -m one"):
        git(folder, *command.split())
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", folder, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("given", [f"{URL}@v1", "the folder"])
def test_a_notebook_brings_its_users_own_code(
    given: str, study: Path, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the commit that a tag had when it was written, or the files; with what they need."""
    path = tmp_path / "mine.ipynb"
    chosen = str(study) if given == "the folder" else given
    assert (
        main(["notebook", "kaggle", str(tmp_path / "flat.json"), "--code", chosen, "-o", str(path)])
        == 0
    )
    assert "RUNNER_CODE" not in os.environ
    commit = git(study, "rev-parse", "HEAD")
    (study / "programs/flat.py").write_text("def program(): later\n")
    git(study, "commit", "-qam", "two")
    git(study, "tag", "-fam", "two", "v1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    notebook = json.loads(path.read_text().replace("doctor", "--version"))
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    last = next(number for number, text in enumerate(texts) if '"work"' in text)
    shown = execute({**notebook, "cells": notebook["cells"][: last + 1]}, kernel, tmp_path)
    assert "flat: succeeded" in str(shown.cells[-1].outputs)
    (code,) = (tmp_path / "temporary").glob("study-*")
    assert not (code / ".env").exists() or given != "the folder"
    assert (code / "programs/flat.py").read_text() == PROGRAM
    if given != "the folder":
        assert f'"{URL}", "{commit}"], check=True)  # v1' in text_of(notebook, "code")
        job = Runner(tmp_path / "store").job("flat")
        assert commit[:12] in str(job)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ([], "Name the folder's repository, --code https://HOST/YOU/STUDY@TAG"),
        (["--code", "git@github.com:you/study"], "a notebook is shared and has no key of yours"),
        (["--code", "https://token@github.com/you/study"], "received 'https://***@github.com"),
        (["--code", f"{URL}@v2"], "couldn't find remote ref v2. It has to be public"),
        (["--code", "./no-such-folder"], "no folder here"),
        (["--code", "."], "expected programs/, models/ or datasets/ in it"),
        (["--code", "large"], "150 kB of code at most, packed. The largest file is houses.csv"),
    ],
)
def test_code_that_a_notebook_cannot_bring_is_refused(
    code: list[str],
    said: str,
    study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RUNNER_CODE", str(study))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large/programs").mkdir(parents=True)
    (tmp_path / "large/houses.csv").write_bytes(os.urandom(200_000))
    assert main(["notebook", "colab", "flat.json", *code]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*.ipynb"))


@pytest.mark.parametrize(
    ("project", "installed"),
    [
        ("[build-system]\nrequires = []", '["-r", "requirements.txt", "."]'),
        (
            "[project]\ndependencies = ['a; python_version < \"4\"']",
            '"a; python_version < \\"4\\""]',
        ),
        ("[tool.ruff]", '["-r", "requirements.txt"]'),
    ],
)
def test_what_ones_code_needs_is_installed(
    project: str, installed: str, study: Path, tmp_path: Path
) -> None:
    """Where pyproject.toml describes a package, this; else only what it depends on."""
    (study / "pyproject.toml").write_text(project)
    path = tmp_path / "mine.ipynb"
    spec = str(tmp_path / "flat.json")
    assert (
        main(["notebook", "colab", spec, "--code", str(study), "-o", str(path), "--install", "x"])
        == 0
    )
    assert installed in text_of(json.loads(path.read_text()))


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
