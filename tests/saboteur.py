"""`runner`, but the process kills itself at a chosen moment: `SABOTAGE=moment[:n]`.

The n-th time that the moment comes (from 1), the process gets SIGKILL: no handler, no
`finally`, no flush. The product has no hooks for this; they are put in from outside.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

#: moment → (module, class or "", function, "before" or "after" it runs)
MOMENTS = {
    "claim": ("runner.queue.queue", "Queue", "claim", "after"),
    "pack": ("runner.store.filesystem", "FileStore", "put", "during"),
    "commit": ("runner.queue.lease", "Lease", "commit", "before"),
    "committed": ("runner.queue.lease", "Lease", "commit", "after"),
    "finish": ("runner.queue.lease", "Lease", "finish", "before"),
    "finished": ("runner.queue.lease", "Lease", "finish", "after"),
    "validation": ("keras.callbacks", "CallbackList", "on_test_batch_begin", "before"),
    "epoch": ("keras.callbacks", "CallbackList", "on_epoch_end", "before"),
    "step": ("keras.callbacks", "CallbackList", "on_train_batch_end", "before"),
    "train_end": ("keras.callbacks", "CallbackList", "on_train_end", "before"),
}


def sabotage(text: str) -> None:
    """Arrange the death."""
    moment, _, count = text.partition(":")
    module, owner, function, when = MOMENTS[moment]
    place: Any = importlib.import_module(module)
    if owner:
        place = getattr(place, owner)
    setattr(place, function, deadly(getattr(place, function), when, int(count or 1)))


def deadly(function: Callable[..., Any], when: str, count: int) -> Callable[..., Any]:
    """Return the function, with the death built in."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == count and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


if __name__ == "__main__":
    sabotage(os.environ["SABOTAGE"])
    from runner.cli.main import main

    sys.exit(main())
