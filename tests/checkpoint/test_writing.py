"""What is written: bytes that stay are written once, wherever they lay at first."""

from itertools import pairwise
from typing import Any

import numpy as np

from runner.checkpoint.checkpointer import Checkpointer
from runner.checkpoint.ledger import Ledger, Snapshot
from runner.checkpoint.manifest import Position
from runner.checkpoint.reading import read_manifest
from tests.store.memory import MemoryStore

FROZEN = "model/00000/frozen"


def written(sizes: dict[str, int], *, keep: int = 2) -> tuple[list[int], list[dict[str, str]]]:
    """Save five states of which all but FROZEN changes: bytes of packs, and each tensor's pack."""
    store = MemoryStore()
    commits: list[Any] = []
    ledger = Ledger(
        store, "jobs/a", token=1, commit=lambda commit: commits.append(vars(commit)), keep=keep
    )
    saver = Checkpointer(ledger)
    frozen = np.ones(sizes["frozen"], "uint8")
    counts, packs, before = [], [], 0
    for step in range(1, 6):
        changing = np.full(sizes["changing"], step, "uint8")
        saver.save(
            Snapshot(
                tensors=[(FROZEN, frozen), ("model/00001/kernel", changing)],
                python={},
                position=Position(global_step=step),
            ),
            wait=True,
        )
        manifest = read_manifest(store, commits[-1]["checkpoints"][0]["manifest"])
        packs.append({n: manifest.packs[p.pack].key for n, p in manifest.tensors.items()})
        counts.append(saver.ledger.bytes_written - before)
        before = saver.ledger.bytes_written
    saver.close()
    return counts, packs


def test_frozen_layers_are_written_once_where_they_are_most_of_the_bytes() -> None:
    counts, packs = written({"frozen": 4_000_000, "changing": 2_000_000})
    assert counts[0] > 6_000_000
    assert all(2_000_000 < count < 2_002_000 for count in counts[1:]), counts
    assert len({named[FROZEN] for named in packs}) == 1


def test_the_rest_of_a_pack_is_rewritten_once() -> None:
    counts, packs = written({"frozen": 2_000_000, "changing": 3_000_000})
    assert 2_000_000 < sum(counts[1:]) - 4 * 3_000_000 < 2_010_000
    assert len({named[FROZEN] for named in packs}) == 2


def test_what_is_small_is_written_twice_and_the_two_take_turns() -> None:
    """Neighbours share no object, and after the beginning only what changes is written."""
    counts, packs = written({"frozen": 40_000, "changing": 60_000})
    for one, other in pairwise(packs):
        assert not {*one.values()} & {*other.values()}
    assert packs[-1][FROZEN] == packs[-3][FROZEN]
    assert all(60_000 < count < 62_000 for count in counts[4:]), counts


def test_a_single_checkpoint_has_no_neighbour() -> None:
    counts, _ = written({"frozen": 40_000, "changing": 60_000}, keep=1)
    assert all(60_000 < count < 62_000 for count in counts[2:]), counts
