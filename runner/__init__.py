"""Keras trainings that survive the death of their machine, bit for bit.

Names are loaded on first use: `import runner` costs nothing, `runner.BackupAndRestore`
imports Keras.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.cli.inline import run, show, submit
    from runner.store.filesystem import open_store
    from runner.training.callback import BackupAndRestore
    from runner.training.data import Batches
    from runner.training.program import Program

__all__ = ["BackupAndRestore", "Batches", "Program", "open_store", "run", "show", "submit"]

_WHERE = {
    "BackupAndRestore": "runner.training.callback",
    "Batches": "runner.training.data",
    "Program": "runner.training.program",
    "open_store": "runner.store.filesystem",
    "run": "runner.cli.inline",
    "show": "runner.cli.inline",
    "submit": "runner.cli.inline",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        msg = f"module 'runner' has no attribute {name!r}; it offers {', '.join(__all__)}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
