"""Python state goes through JSON and comes back the same, bit for bit."""

import json
import math
import random
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from zoneinfo import ZoneInfo

import ml_dtypes
import numpy as np
import pytest

from runner.checkpoint.plain import NotPlainError, decode, encode
from runner.errors import CheckpointError


def round_trip(value: Any) -> Any:
    arrays: dict[str, Any] = {}

    def store(path: str, array: Any) -> str:
        arrays[path] = array
        return path

    text = json.dumps(encode(value, store, "x"), allow_nan=False)
    return decode(json.loads(text), arrays.__getitem__)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        2**200,
        -0.0,
        0.1,
        5e-324,
        1.7976931348623157e308,
        math.inf,
        -math.inf,
        "",
        "ü\n\x00",
        b"",
        bytes(range(256)),
        (),
        (1, (2, [3])),
        [],
        {},
        {"a": {"b": [1, 2.5, None]}},
        {"!float": "a key that looks like ours"},
        {1: "one", (2, 3): "pair", "s": None},
        {3, 1, 2},
        frozenset({"b", "a"}),
        OrderedDict([("z", 1), ("a", 2)]),
        deque([1, 2, 3], maxlen=3),
        np.float32(0.1),
        np.int64(-1),
        np.bool_(True),
        1 + 2j,
        bytearray(b"ab"),
        range(1, 9, 2),
        slice(None, 3, -1),
        Path("a/b"),
        PurePosixPath("/a"),
        PureWindowsPath("c:/a"),
        Counter("abca"),
        defaultdict(list, {"a": [1]}),
        defaultdict(None, {1: 2}),
        date(2026, 2, 3),
        datetime(2026, 2, 3, 4, 5, 6, 7),
        datetime(2026, 2, 3, tzinfo=UTC),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2026, 2, 3, tzinfo=timezone(timedelta(hours=-3, seconds=5), "x")),
        time(4, 5, 6, tzinfo=timezone(timedelta(hours=1))),
        timedelta(-1, 2, 3),
    ],
)
def test_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    found = round_trip(value)
    assert type(found) is type(value)
    assert found == value
    if isinstance(value, float):
        assert struct.pack(">d", found) == struct.pack(">d", value)
    if isinstance(value, deque):
        assert found.maxlen == value.maxlen
    if isinstance(value, defaultdict):
        assert found.default_factory is value.default_factory
    if isinstance(value, datetime | time):
        assert (found.tzname(), found.utcoffset()) == (value.tzname(), value.utcoffset())
        assert found.fold == value.fold


def test_nan_keeps_its_bits() -> None:
    payload = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0]
    assert struct.pack(">d", round_trip(payload)).hex() == "7ff8000000000123"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint64", "bool", "bfloat16"])
def test_arrays_leave_as_tensors(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    value = {"weights": [np.arange(6).reshape(2, 3).astype(kind)]}
    found = round_trip(value)["weights"][0]
    assert found.dtype == kind
    assert found.tobytes() == value["weights"][0].tobytes()


def test_random_generators_come_back() -> None:
    random.seed(5)
    np.random.seed(5)
    saved = round_trip({"py": random.getstate(), "np": np.random.get_state()})
    expected = [random.random(), np.random.random()]
    random.setstate(saved["py"])
    np.random.set_state(saved["np"])
    assert [random.random(), np.random.random()] == expected


def test_equal_sets_are_equal_bytes() -> None:
    one, two = {f"k{i}" for i in range(50)}, {f"k{i}" for i in reversed(range(50))}
    assert encode(one, lambda p, a: p) == encode(two, lambda p, a: p)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: 0,
        np.array([object()]),
        {"a": [print]},
        np.arange(3).astype(">i8"),  # its bytes would be read back as other numbers
        np.zeros(2, "complex128"),  # no pack holds these
        np.array(["cat"]),
        np.str_("cat"),
        np.array(["2026-11-27"], "datetime64[D]"),
        np.zeros(2, [("a", "i4"), ("b", "f4")]),
        np.zeros(2, [("a", "i4"), ("b", "f4")])[0],
        np.ma.masked_array([1.0, 2.0], mask=[True, False]),  # its mask would be lost
        defaultdict(lambda: 0),  # its factory is the program's
    ],
)
def test_what_is_not_plain_is_refused_by_name(value: Any) -> None:
    with pytest.raises(NotPlainError, match="state"):
        encode(value, lambda p, a: p, "state")


def test_a_cycle_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotPlainError, match="deeper"):
        encode(loop, lambda p, a: p, "state")


@pytest.mark.parametrize(
    "data",
    [
        {"!unknown": 1},
        {"!float": "zz"},
        {"!scalar": ["no", ""]},
        {"!array": "absent"},
        {"!path": ["PosixPath", "a"]},
        {"!datetime": ["2026", 0, "../x"]},
        {"!defaultdict": ["eval", []]},
    ],
)
def test_foreign_data_is_a_checkpoint_error(data: Any) -> None:
    with pytest.raises(CheckpointError):
        decode(data, dict[str, Any]().__getitem__)
