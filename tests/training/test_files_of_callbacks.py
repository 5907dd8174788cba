"""A file that a callback writes to is put back to its length and position."""

import io
from pathlib import Path
from typing import Any

import keras
import pytest

from tests.training.observing import Holding, Process, resumed


@pytest.mark.parametrize("mode", ["w", "a", "w+", "wb", "ab", "r+b"])
def test_a_file_is_put_back_to_its_length_and_position(tmp_path: Path, mode: str) -> None:
    """Rows that were written after the checkpoint are gone, those before it are there."""
    text = (lambda value: value.encode()) if "b" in mode else str
    path = tmp_path / "log"
    path.write_text("before\n")
    callback = Holding(file=path.open(mode))
    process = Process(callback)
    callback.file.write(text("one\n"))
    state = process.capture()
    callback.file.write(text("two\n"))
    callback.file.flush()
    whole = path.read_text()
    callback.file.close()
    path.write_text("other words than those")
    callback = Holding(file=path.open(mode))
    Process(callback).resume(state)
    callback.file.write(text("two\n"))
    callback.file.close()
    assert path.read_text() == whole


def test_a_large_file_is_cut_to_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.training.state.files.MOST_BYTES", 3)
    path = tmp_path / "log"
    callback = Holding(file=path.open("a"))
    process = Process(callback)
    callback.file.write("one\n")
    state = process.capture()
    callback.file.write("two\n")
    callback.file.close()
    callback = Holding(file=path.open("a"))
    assert Process(callback).resume(state).said == []
    assert path.read_text() == "one\n"
    callback = Holding(file=path.open("w"))
    (said,) = Process(callback).resume(state).said
    assert "Holding.file is not restored (4 of its 4 bytes are not in" in said


def test_a_file_of_a_training_that_has_ended_is_whole(tmp_path: Path) -> None:
    """A program that is run once more opens it anew, and fit only closes it."""
    path = tmp_path / "log"
    callback = Holding(file=path.open("w"))
    process = Process(callback)
    callback.file.write("all\n")
    callback.file.close()
    state = process.capture()
    callback = Holding(file=path.open("w"))
    process = Process(callback).resume(state)
    callback.file.close()
    assert path.read_text() == "all\n"
    path.unlink()
    process.resume(state)
    assert path.read_text() == "all\n"


def test_a_file_for_reading_and_one_in_memory_go_on(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("0123456789")

    def make() -> Any:
        return Holding(file=(tmp_path / "data").open(), text=io.StringIO(), raw=io.BytesIO(b"xy"))

    found = resumed(make, lambda c: (c.file.read(3), c.text.write("ä\r\n"), c.raw.read(1)))
    assert found.file.read(1) == "3"
    assert (found.text.getvalue(), found.text.tell()) == ("ä\r\n", 3)
    assert found.raw.read() == b"y"


@pytest.mark.parametrize("append", [False, True])
def test_a_csv_file_continues_at_another_place(tmp_path: Path, append: bool) -> None:
    logs = {"loss": 0.5, "val_loss": 0.25}

    def run(process: int, *epochs: int) -> Any:
        callback = keras.callbacks.CSVLogger(str(tmp_path / f"{process}.csv"), append=append)
        return callback, Process(callback, begin=callback.on_train_begin), epochs

    callback, process, _ = run(1)
    callback.on_epoch_end(0, logs)
    state = process.capture()
    for epoch in (1, 2):
        callback.on_epoch_end(epoch, logs)
    callback, process, _ = run(2)
    process.resume(state)
    assert ["filename is" in text for text in process.said] == [True]
    for epoch in (1, 2):
        callback.on_epoch_end(epoch, logs)
    assert (tmp_path / "1.csv").read_text() == (tmp_path / "2.csv").read_text()


def test_a_csv_file_without_rows_gets_its_header(tmp_path: Path) -> None:
    """The file of the first process is there when the second begins: it takes it for begun."""

    def run() -> Any:
        callback = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"), append=True)
        return callback, Process(callback, begin=callback.on_train_begin)

    callback, process = run()
    state = process.capture()
    callback.on_epoch_end(0, {"loss": 0.5})
    whole = (tmp_path / "log.csv").read_text()
    callback, process = run()
    process.resume(state)
    callback.on_epoch_end(0, {"loss": 0.5})
    assert (tmp_path / "log.csv").read_text() == whole
