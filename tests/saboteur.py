"""`runner`, but the process kills itself at a chosen moment: `SABOTAGE=moment[:n[:seconds]]`.

The n-th time that the moment comes (from 1), the process gets SIGKILL: no handler, no `finally`,
no flush. With seconds, its other threads go on for so long before it. The product has no hooks for
this; they are put in from outside.
"""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

#: moment → (module, class, function, whether the process dies "before" or "after" it)
MOMENTS = {
    "claimed": ("runner.queue.queue", "Queue", "claim", "after"),
    "commit": ("runner.queue.lease", "Lease", "commit", "before"),
    "committed": ("runner.queue.lease", "Lease", "commit", "after"),
    "finish": ("runner.queue.lease", "Lease", "finish", "before"),
    "finished": ("runner.queue.lease", "Lease", "finish", "after"),
    "test_begin": ("keras.callbacks", "CallbackList", "on_test_begin", "before"),
    "validation": ("keras.callbacks", "CallbackList", "on_test_batch_begin", "before"),
    "epoch": ("keras.callbacks", "CallbackList", "on_epoch_end", "before"),
    "step": ("keras.callbacks", "CallbackList", "on_train_batch_end", "before"),
    "train_end": ("keras.callbacks", "CallbackList", "on_train_end", "before"),
    "picture": ("runner.datasets.folder", "_Source", "_picture", "before"),
    "sending": ("runner.engine.messages", "Service", "send", "before"),
    "sent": ("runner.engine.messages", "Service", "send", "after"),
    "evaluation": ("runner.evaluation.evaluate", "_Run", "predict", "before"),
}


def sabotage(text: str) -> None:
    """Arrange the death."""
    moment, count, rest = (*text.split(":"), "", "")[:3]
    if moment == "slow":
        slow_down(float(count))
        return
    if moment == "pack":
        die_in_the_middle_of_a_pack(int(count or 1))
        return
    module, owner, function, when = MOMENTS[moment]
    place = getattr(importlib.import_module(module), owner)
    setattr(
        place, function, deadly(getattr(place, function), when, int(count or 1), float(rest or 0))
    )


def slow_down(seconds: float) -> None:
    """Nothing dies, but each pack takes so long to be written."""
    from runner.store.filesystem import FileStore

    put = FileStore.put

    def slowly(store: FileStore, key: str, data: Any) -> None:
        if "/packs/" in key:
            time.sleep(seconds)
        put(store, key, data)

    setattr(FileStore, "put", slowly)  # noqa: B010 - a method is not to be assigned


def deadly(function: Callable[..., Any], when: str, count: int, rest: float) -> Callable[..., Any]:
    """Return the function, with the death built in."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            time.sleep(rest)
            die()
        result = function(*args, **kwargs)
        if calls == count and when == "after":
            die()
        return result

    return wrapped


def die_in_the_middle_of_a_pack(count: int) -> None:
    """Write half of the n-th pack's bytes, then die."""
    from runner.store.filesystem import FileStore

    packs = 0
    put = FileStore.put

    def half(store: FileStore, key: str, data: Any) -> None:
        nonlocal packs
        packs += "/packs/" in key
        if packs == count and "/packs/" in key:
            whole = b"".join(data) if isinstance(data, list | tuple) else bytes(data)
            path = store._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".tmp-{path.name}").write_bytes(whole[: len(whole) // 2])
            die()
        put(store, key, data)

    setattr(FileStore, "put", half)  # noqa: B010 - a method is not to be assigned


def die() -> None:
    """Be gone at once."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sabotage(os.environ["SABOTAGE"])
    if "SABOTAGE_MEMORY" in os.environ:  # there is none for any data
        setattr(importlib.import_module("runner.datasets.arrays"), "IN_MEMORY", 0.0)  # noqa: B010
    from runner.cli.main import main

    sys.exit(main())
