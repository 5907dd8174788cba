"""Each hint to install something can be followed with a clone alone, and what is built is whole."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.harness import ENVIRONMENT, QUICKSTART, REPOSITORY

PLACES = ("README.md", "Makefile", "docker", "jobs", "runner", "tests")


def hints() -> Iterator[tuple[Path, str]]:
    """Yield what each `pip install` in a text of this repository is followed by."""
    for place in PLACES:
        root = REPOSITORY / place
        for path in [root] if root.is_file() else root.rglob("*"):
            if path.is_file() and path.suffix in ("", ".md", ".py", ".sh", ".yaml", ".service"):
                for line in path.read_text(encoding="utf-8").splitlines():
                    yield from ((path, line[m.end() :]) for m in re.finditer("pip install", line))


def test_nothing_is_installed_from_an_index_that_does_not_have_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found = list(hints())
    assert len(found) > 10
    for path, text in found:
        named = re.search(re.escape(project["name"]) + r"(\[\S*\])?(?P<url> @ )?", text)
        assert named is None or named["url"], f"{path}: pip install{text}"
        for extras in re.findall(r"\.\[([\w,]+)\]", text):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), path


def test_the_wheel_is_whole(tmp_path: Path) -> None:
    """Built from a clone and installed elsewhere: command, networks, templates and notebooks."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(REPOSITORY)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    fresh = tmp_path / "fresh"
    venv.create(fresh)
    python = str(fresh / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", str(wheel)], check=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(fresh)})
    # the packages that runner needs are those of this environment, which has runner editable: a
    # folder that is named in a .pth file has no say with .pth files of its own
    (Path(packages) / "needed.pth").write_text(sysconfig.get_path("purelib"))
    env = {**os.environ, **ENVIRONMENT, "RUNNER_STORE": str(tmp_path / "store")}
    env.pop("PYTHONPATH", None)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert run(python, "-c", "import runner; print(runner.__file__)").startswith(str(fresh))
    runner = str(fresh / "bin" / "runner")
    assert "submit" in run(runner, "--help")
    assert run(runner, "submit", str(QUICKSTART), "--set", "training.epochs=1") == "quickstart\n"
    run(runner, "report", "-o", "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<h1" in page
    assert "Permission is hereby granted" in page  # the licence of what draws the curves
    assert (Path(packages) / "runner/report/uplot/LICENSE").is_file()
    run(runner, "notebook", "colab", str(QUICKSTART), "-o", "colab.ipynb")
    assert (tmp_path / "colab.ipynb").stat().st_size
