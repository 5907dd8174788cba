"""`runner`, but its machine gives notice at a chosen moment of the job's life.

`ANNOUNCE=moment KIND=notice METADATA=http://…`: when the moment comes, the notice begins, and what
the process does then takes much longer than the notice. So it ends in that phase or too late. With
`SLOW=before,after` each pack takes so many seconds to upload, before and after the notice. The
product has no hooks for this; they are put in from outside.
"""

import importlib
import os
import signal
import sys
import time
from typing import Any
from urllib.request import Request, urlopen

#: moment → (module, class, function, which call of it, seconds that each call takes from then on)
MOMENTS = {
    "waiting": ("runner.engine.worker", "Worker", "_wait", 1, 0),
    "building": ("keras.callbacks", "CallbackList", "on_train_batch_begin", 1, 300),
    "training": ("keras.callbacks", "CallbackList", "on_train_batch_end", 5, 1),
    "validation": ("keras.callbacks", "CallbackList", "on_test_batch_end", 2, 1),
    "evaluation": ("runner.evaluation.evaluate", "_Run", "_ask", 3, 300),
}


begun: list[str] = []


def announce(moment: str, kind: str, url: str) -> None:
    """Arrange the notice."""
    module, owner, function, number, seconds = MOMENTS[moment]
    place = getattr(importlib.import_module(module), owner)
    real = getattr(place, function)
    calls = 0

    def slowed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            begin(kind, url)
        if calls >= number:
            time.sleep(seconds)
        return real(*args, **kwargs)

    setattr(place, function, slowed)


def slow_down(before: float, after: float) -> None:
    """Let uploads take long."""
    from runner.store.filesystem import FileStore

    put = FileStore.put

    def slowly(store: FileStore, key: str, data: Any) -> None:
        if "/packs/" in key:
            time.sleep(after if begun else before)
        put(store, key, data)

    setattr(FileStore, "put", slowly)  # noqa: B010 - a method is not to be assigned


def begin(kind: str, url: str) -> None:
    """Let the notice begin."""
    begun.append(kind)
    if kind == "kubernetes":
        print("signalled", time.time(), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        urlopen(Request(f"{url}/announce/{kind}", method="POST")).close()


if __name__ == "__main__":
    announce(os.environ["ANNOUNCE"], os.environ["KIND"], os.environ["METADATA"])
    if slow := os.environ.get("SLOW"):
        slow_down(*map(float, slow.split(",")))
    from runner.cli.main import main

    sys.exit(main())
