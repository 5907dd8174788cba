"""An attempt knows which version of the user's code it ran."""

import gc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runner import code
from tests.harness import REPOSITORY

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")

PROGRAM = "from runner.code import git_commit; print(git_commit())"


def commit_in(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": str(Path(shutil.which("git") or "").parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_commit_of_the_working_folder(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert commit_in(tmp_path) == ""
    (tmp_path / "model.py").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    full = git(tmp_path, "rev-parse", "HEAD")
    assert commit_in(tmp_path) == full[:12]
    (tmp_path / "model.py").write_text("two")
    assert commit_in(tmp_path) == f"{full[:12]}-dirty"


def test_no_repository_is_no_fault(tmp_path: Path) -> None:
    assert commit_in(tmp_path) == ""


def test_other_threads_may_import_while_the_code_of_a_job_is_forgotten() -> None:
    """The garbage collector runs whenever it likes; it lets others go on, here an import."""
    before, threshold = {*sys.modules}, gc.get_threshold()

    def imports_one(_phase: str, _info: dict[str, int]) -> None:
        sys.modules[f"imported_{len(sys.modules)}"] = code

    gc.callbacks.append(imports_one)
    gc.set_threshold(1)
    try:
        code.forget()
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(imports_one)
        for name in {*sys.modules} - before:
            del sys.modules[name]
