"""A folder of programs for the tests of users' own code."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the user's code."""
    (tmp_path / "programs").mkdir()
    monkeypatch.setenv(code.VARIABLE, str(tmp_path))
    mine = {name: one for name, one in sys.modules.items() if name.split(".")[0] == "tests"}
    yield tmp_path
    code.forget()
    sys.modules.update(mine)  # where a test gave this repository as the folder
