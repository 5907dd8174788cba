"""The program has changed between two attempts."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import pytest

from tests.training.leaving import (
    FIT,
    Result,
    X,
    Y,
    attempt,
    batches,
    dense,
    fitted,
    interrupted,
    kept,
    result,
    stopped,
)
from tests.training.test_dropin import Interrupting

STEPS = 4  # of an epoch


@pytest.mark.parametrize(
    ("now", "updates", "said"),
    [
        ({"size": 12}, 3 + 1 + 4, "epoch 1 goes on after 1 of 2 steps"),
        ({"size": 3}, 3 + 2 + 16, "epoch 1 goes on after 6 of 8 steps"),
        ({"size": 24}, 3 + 1 + 2, "epoch 1 goes on after 0 of 1 steps"),
        ({"n": 12}, 3 + 2 + 4, "epoch 1 begins again"),
    ],
)
def test_other_batches_or_data_are_taken_over_and_said(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    now: Mapping[str, Any],
    updates: int,
    said: str,
) -> None:
    """Every epoch is trained to its end, whatever step the checkpoint was at."""
    stopped(tmp_path)
    model, history = fitted(tmp_path, **now)
    assert said in caplog.text
    assert len(history.epoch) == 3
    assert min(history.history["loss"]) > 0
    assert int(model.optimizer.iterations) == updates


def test_a_lowered_learning_rate_counts_if_nothing_had_changed_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(tmp_path)
    lower = dense(keras.layers.Dropout(0.2))
    lower.optimizer.learning_rate = 0.001
    model, _ = fitted(tmp_path, model=lower)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)
    assert "optimizer.learning_rate 0.05" in caplog.text


def test_a_learning_rate_that_was_changed_in_training_is_restored(tmp_path: Path) -> None:
    class Halves(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            self.left = 1

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.left:
                self.left = 0
                self.model.optimizer.learning_rate = 0.025

    stopped(tmp_path, Halves())
    lower = dense(keras.layers.Dropout(0.2))
    lower.optimizer.learning_rate = 0.001
    model, _ = fitted(tmp_path, Halves(), model=lower)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.025)


@pytest.mark.slow
def test_a_model_of_load_model_is_the_same_model(tmp_path: Path) -> None:
    def program(others: list[Any]) -> Result:
        model = dense(keras.layers.Dropout(0.2))
        if path.exists():
            model = keras.models.load_model(path)
        else:
            model.save(path)
        return result(model.fit(batches(), callbacks=others, **FIT), model)

    path = tmp_path / "model.keras"
    whole = attempt(program, 0, [kept(tmp_path / "whole")])
    path.unlink()
    assert interrupted(program, tmp_path / "killed", 2, 4) == whole


@pytest.mark.slow
def test_several_fits_with_one_folder_are_resumed_at_the_one_that_was_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fits before it had ended: they are passed over, and no epoch is trained twice."""
    ended: Counter[str] = Counter()
    monkeypatch.setattr("runner.training.callback._ENDED", ended)

    def rounds(folder: Path, interrupting: Any) -> Any:
        ended.clear()  # as a new process
        keras.utils.set_random_seed(1)
        model = dense(keras.layers.Dropout(0.2))
        for _ in range(3):
            backup = kept(folder, delete_checkpoint=True)
            model.fit(X, Y, batch_size=6, epochs=1, verbose=0, callbacks=[backup, interrupting])
        return model

    whole = rounds(tmp_path / "whole", Interrupting())
    assert caplog.text.count("this is the second fit of this program with this folder") == 1
    with pytest.raises(RuntimeError, match="interrupted at a step"):
        rounds(tmp_path / "killed", Interrupting(6))  # in the second
    again = rounds(tmp_path / "killed", Interrupting())
    assert int(again.optimizer.iterations) == 3 * STEPS
    for one, other in zip(again.get_weights(), whole.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert "this fit is passed over" in caplog.text
