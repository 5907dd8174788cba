"""A manifest with a right hash may still hold nonsense: whoever may write can forge it."""

import copy
import json
from typing import Any

import pytest

from runner.checkpoint.manifest import Manifest, Pack, Place, Position, name_of
from runner.errors import CheckpointError

MANIFEST = Manifest(
    tensors={"model/w": Place("float32", (2, 3), "ab", 0, "model/w", 128, 24)},
    packs=(Pack("jobs/a/packs/t1-ab.safetensors", 152, "cd"),),
    position=Position(epoch=1, global_step=3),
)
ODD: list[Any] = [None, "x", -1, 1.5, True, [], {}, [None], "../x", "a/.b"]


def read(fields: Any) -> Manifest:
    data = json.dumps(fields).encode()
    return Manifest.from_bytes(f"checkpoints/t1-s3-{name_of(data)}.json", data)


def test_a_manifest_is_read_as_it_was_written() -> None:
    data = MANIFEST.to_bytes()
    assert Manifest.from_bytes(f"checkpoints/t1-s3-{name_of(data)}.json", data) == MANIFEST


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_forged_types_are_damage_and_no_error_of_python(value: Any) -> None:
    whole = json.loads(MANIFEST.to_bytes())
    tensor, pack = whole["tensors"]["model/w"], whole["packs"][0]
    for place in range(len(tensor)):
        forged = copy.deepcopy(whole)
        forged["tensors"]["model/w"][place] = value
        if (place in (2, 4) and isinstance(value, str)) or (place == 1 and value == []):
            continue  # these are what they may be
        with pytest.raises(CheckpointError):
            read(forged)
    for place in range(len(pack)):
        forged = copy.deepcopy(whole)
        forged["packs"][0][place] = value
        if isinstance(value, str) and (place == 2 or (place == 0 and value == "x")):
            continue
        with pytest.raises(CheckpointError):
            read(forged)
    for name in whole["position"]:
        kept = isinstance(value, str) if name == "moment" else name == "stop" and value is True
        if not kept:
            with pytest.raises(CheckpointError):
                read({**whole, "position": {**whole["position"], name: value}})
    for name in ("tensors", "packs", "position"):
        with pytest.raises(CheckpointError):
            read({**whole, name: value if value not in ([], {}) else 3})
