"""Each test of a command begins like a process: no store was named yet."""

import pytest

from runner.cli import common


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "_named", {})
