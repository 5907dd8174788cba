"""What `status` shows of a checkpoint is what was written, also over a bad line."""

import pytest

from runner.queue.queue import Queue
from runner.queue.view import describe, view_all
from tests.report.fakes import World, history
from tests.store.memory import MemoryStore


@pytest.mark.parametrize("length", [0, 40])
def test_an_answer_that_was_cut_is_asked_for_again(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection may end within an answer whose length nobody knew."""
    store = MemoryStore()
    world = World(store)
    world.submit("cats")
    world.finish(world.train("cats", history(3)))
    read = store.read
    cut: list[str] = []

    def badly(key: str, **limits: int) -> bytes | None:
        data = read(key, **limits)
        if "checkpoints/" in key and data and not cut:
            cut.append(key)
            return data[:length]
        return data

    monkeypatch.setattr(store, "read", badly)
    queue = Queue(store)
    (view,) = view_all(queue, [queue.job("cats")])
    assert describe(store, view)["history"]["loss"] == list(history(3)["loss"])
    assert cut


def test_an_evaluation_holds_results_only_and_its_run_stands_beside_it() -> None:
    """Two runs of one job are compared by `evaluation`: speed and places are no results."""
    store = MemoryStore()
    queue = Queue(store)
    lease = queue.claim(queue.submit("cats", {"seed": 1}), {"host": "here", "pid": 1})
    run = {"images_per_second": 812.5, "json": "jobs/cats/e/t1.json", "npz": "jobs/cats/e/t1.npz"}
    lease.finish(evaluation={"top_1": 0.5, "images": 10, **run}, evaluate=False)
    (view,) = view_all(queue, [queue.job("cats")])
    document = describe(store, view)
    assert document["evaluation"] == {"top_1": 0.5, "images": 10}
    assert document["evaluation_run"] == run
    queue.submit("dogs", {"seed": 1})
    (view,) = view_all(queue, [queue.job("dogs")])
    document = describe(store, view)
    assert (document["evaluation"], document["evaluation_run"]) == (None, None)
