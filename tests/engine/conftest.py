"""A queue whose workers count instead of training."""

import pytest

from tests.engine.counting import Shop


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(monkeypatch)
