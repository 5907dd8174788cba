"""A notebook brings its user's own code: a repository at one commit, or the files."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from runner.cli.main import main
from tests.cli.notebooks import execute, text_of
from tests.harness import Runner

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
    project: str,
    installed: str,
    study: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
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
    said = capsys.readouterr().err
    assert "for everybody who sees it: extra" in said
    assert "programs/flat.py" in said
