"""What holds for all tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the trainings that are killed: they take longest, and two workers share them."""
    items.sort(key=lambda item: "tests/engine/" not in item.nodeid)
