"""Data in a bucket are read as a store there is: the same options, the same words."""

import io
import json
from collections.abc import Callable

import numpy as np
import pytest

from runner.datasets import npz
from runner.errors import DataError, StoreError
from tests.store.conftest import Place


def content() -> bytes:
    x, y = np.arange(4 * 64, dtype="uint8").reshape(4, 8, 8, 1), np.arange(4) % 2
    file = io.BytesIO()
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return file.getvalue()


@pytest.fixture(params=["s3", "gcs"])
def bucket(
    request: pytest.FixtureRequest,
    place_of: Callable[[str], Place],
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    place = place_of(request.param)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    return place


def test_data_lie_beside_their_store(bucket: Place) -> None:
    bucket.open().put("data/x.npz", content())
    assert npz.load(path=f"{bucket.url}/data/x.npz").x_train.shape == (4, 8, 8, 1)


def test_data_that_are_not_there_are_said(bucket: Place) -> None:
    bucket.open().put("data/y.npz", content())
    with pytest.raises(DataError, match="no such file"):
        npz.load(path=f"{bucket.url}/data/x.npz")


def test_wrong_options_are_said_as_of_a_store(
    place_of: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By clients that know their options: that of Google's storage takes any."""
    monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", json.dumps({"no_such_option": 1}))
    with pytest.raises(StoreError, match="storage_options"):
        npz.load(path=f"{place_of('s3').url}/data/x.npz")
