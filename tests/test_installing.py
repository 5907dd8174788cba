"""Whoever has only a clone or its URL can follow each hint to install something."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.harness import REPOSITORY

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
