"""Objects of many pieces reach the disk whole, or not at all."""

import os
import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from runner.errors import StoreRefusedError
from runner.store.filesystem import FileStore

MIB = 1 << 20
PIECES = {
    "a pack of many small tensors": [*range(1, 4000, 3), 5 * MIB, 0, 17, *[640] * 2000],
    "one large piece": [70 * MIB],
    "nothing": [],
}


def pieces(sizes: Sequence[int]) -> list[bytes]:
    random = np.random.default_rng(1)
    return [random.bytes(size) for size in sizes]


@pytest.mark.parametrize("hasty", [False, True], ids=["whole", "partly"])
@pytest.mark.parametrize("name", PIECES)
def test_what_was_put_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hasty: bool
) -> None:
    data = pieces(PIECES[name])
    if hasty:  # a system call may take only a part
        writev = os.writev
        monkeypatch.setattr(
            os, "writev", lambda file, data: writev(file, [data[0], *(p[:5] for p in data[1:2])])
        )
    store = FileStore(tmp_path)
    store.put("packs/one", data)
    monkeypatch.undo()
    assert store.read("packs/one") == b"".join(data)
    assert store.list("") == ["packs/one"]
    assert [path.name for path in (tmp_path / "packs").iterdir()] == ["one"]


def test_a_full_disk_in_the_middle_shows_no_part_of_an_object(tmp_path: Path) -> None:
    """The limit on file sizes stands in for the disk's end."""
    store = FileStore(tmp_path)
    store.put("there", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for end in (MIB, 4 * MIB, 9 * MIB + 100, 10 * MIB):
        resource.setrlimit(resource.RLIMIT_FSIZE, (end, hard))
        try:
            with pytest.raises(StoreRefusedError, match="ulimit -f"):
                store.put("there", b"x" * (10 * MIB + 1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert store.read("there") == b"before"
        assert [path.name for path in tmp_path.iterdir()] == ["there"]
