"""What holds for all tests."""

from collections.abc import Iterator

import pytest

#: in this order before all others: they take longest, and two workers share them
FIRST = ("tests/engine/", "tests/training/test_exact_resume", "tests/training/test_matrix")


@pytest.fixture(scope="session", autouse=True)
def nothing_of_this_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests submit stays unknown to the user's own workers, and the other way round."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    patch.setenv("RUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("RUNNER_DATA_FROM", raising=False)
    patch.delenv("RUNNER_NOTIFY", raising=False)
    yield
    patch.undo()


_failures: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failures.append(f"{report.nodeid} ({report.when})\n{report.longreprtext[-400:]}")


def pytest_internalerror(excrepr: object) -> None:
    _failures.append(f"pytest itself\n{str(excrepr)[-800:]}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Name the failures at the end, which is kept of long logs; an error of pytest hides them."""
    if not hasattr(config, "workerinput"):
        for failure in _failures:
            print(f"failed: {failure}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the trainings that are killed, so that no worker is left alone with them."""
    items.sort(
        key=lambda item: next(
            (place for place, name in enumerate(FIRST) if name in item.nodeid), len(FIRST)
        )
    )
