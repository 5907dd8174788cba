"""What holds for all tests."""

import pytest

#: in this order before all others: they take longest, and two workers share them
FIRST = ("tests/engine/", "tests/training/test_exact_resume", "tests/training/test_matrix")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the trainings that are killed, so that no worker is left alone with them."""
    items.sort(
        key=lambda item: next(
            (place for place, name in enumerate(FIRST) if name in item.nodeid), len(FIRST)
        )
    )
