"""A plugin of pytest: every `model.fit` of the tests gets `runner.BackupAndRestore`."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import keras

from runner import BackupAndRestore

_fit = keras.Model.fit
begun: list[Path] = []  #: the folders of the fits so far


@functools.wraps(_fit)
def fit(self: Any, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
    folder = Path(tempfile.mkdtemp())
    begun.append(folder)
    backup = BackupAndRestore(str(folder), save_freq=1, delete_checkpoint=False)
    return _fit(self, *args, callbacks=[*(callbacks or []), backup], **kwargs)


keras.Model.fit = fit


def pytest_terminal_summary(terminalreporter: Any) -> None:
    saved = sum(any(folder.rglob("*.safetensors")) for folder in begun)
    terminalreporter.write_line(f"with a backup: {saved} of {len(begun)} fits")
