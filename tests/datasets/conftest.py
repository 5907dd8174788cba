"""Where the real pictures lie, if they are here."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real_pictures() -> Path:
    """A class-balanced part of CIFAR-100: 2,000 training and 500 test pictures."""
    folder = os.environ.get("RUNNER_TEST_DATA", ROOT.parent / "shared" / "data")
    path = Path(folder) / "cifar100_2500.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here: set RUNNER_TEST_DATA to the folder that holds it")
    return path
