"""`BackupAndRestore` in stock fit: Keras's own arguments and behaviours, and exact besides."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner import BackupAndRestore, Batches
from runner.errors import CheckpointError, LeaseLostError, PreemptedError, TrainingError
from runner.store.filesystem import FileStore
from runner.training import backends, frames, private
from runner.training.backends import tensorflow
from tests.harness import few

EPOCHS, STEPS = 5, 3


class Interrupting(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises after a number of steps, or at the end of an epoch."""

    def __init__(self, steps: int | None = None, epoch: int | None = None) -> None:
        super().__init__()
        self.left = steps
        self.epoch = epoch

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("interrupted at a step")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            raise RuntimeError("interrupted at an epoch's end")


class Canary(keras.layers.Layer):  # type: ignore[misc]
    """Counts how often it was called in a training."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.counter.assign_add(1)
        return x


def make_model() -> Any:
    model = keras.Sequential([Canary(), keras.layers.Dropout(0.3), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
    model.build((None, 3))
    return model


def numbers(n: int = 11) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    return rng.random((n, 3)).astype("float32"), rng.random((n, 1)).astype("float32")


def train(folder: Path, *others: Any, data: str = "numpy", **options: Any) -> tuple[Any, Any, Any]:
    """One fit of a new model, seeded alike only in its data."""
    x, y = numbers()
    backup = BackupAndRestore(str(folder), **{"delete_checkpoint": False, **options})
    model = make_model()
    arguments: dict[str, Any] = {
        "numpy": {"x": x, "y": y, "batch_size": 4},
        "batches": {"x": Batches(x, y, batch_size=4, seed=3)},
        "tf.data": {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(4)},
        "endless": {
            "x": tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(4),
            "steps_per_epoch": STEPS,
        },
        "cached": {"x": tf.data.Dataset.from_tensor_slices((x, y)).shuffle(9).batch(4).cache()},
        "generator": {"x": ((x[:4], y[:4]) for _ in iter(int, 1)), "steps_per_epoch": STEPS},
        "shuffled once": {"x": shuffled_once(x, y)},
        "pydataset": {"x": Pieces()},
    }[data]
    history = model.fit(
        **arguments, epochs=EPOCHS, verbose=0, callbacks=[backup, *others], validation_data=(x, y)
    )
    return model, history, backup


def shuffled_once(x: Any, y: Any) -> Any:
    data = tf.data.Dataset.from_tensor_slices((x, y))
    tf.random.set_seed(7)  # the program's: a part of the order
    return data.shuffle(9, seed=5, reshuffle_each_iteration=False).batch(4)


class Pieces(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> Any:
        x, y = numbers()
        return x[index * 4 : index * 4 + 4], y[index * 4 : index * 4 + 4]


def outcome(model: Any, history: Any) -> tuple[Any, ...]:
    weights = [w.tobytes() for w in model.get_weights()]
    return weights, history.history, history.epoch


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    keras.utils.set_random_seed(7)
    yield
    keras.utils.clear_session(free_memory=False)  # which would take a second each time


# ---------------------------------------------------------------------- as Keras's own tests ask


def test_interrupted_at_a_step_and_continued(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="step"):
        train(tmp_path, Interrupting(steps=2), save_freq=1)
    model, history, _ = train(tmp_path, save_freq=1)
    assert history.epoch[-1] == EPOCHS - 1
    assert int(model.layers[0].counter.value) == EPOCHS * STEPS  # Keras's repeats the epoch's steps


def test_interrupted_at_an_epoch_and_continued(tmp_path: Path) -> None:
    model, history, _ = train(tmp_path / "whole")
    expected = outcome(model, history)
    keras.utils.set_random_seed(7)
    with pytest.raises(RuntimeError, match="epoch"):
        train(tmp_path / "broken", Interrupting(epoch=2))
    keras.utils.set_random_seed(99)
    model, history, _ = train(tmp_path / "broken")
    assert history.epoch == list(range(EPOCHS))
    assert int(model.layers[0].counter.value) == EPOCHS * STEPS
    assert outcome(model, history) == expected


def test_same_callback_object_in_two_fits(tmp_path: Path) -> None:
    x, y = numbers()
    backup = BackupAndRestore(str(tmp_path), save_freq=1)
    model = make_model()
    with pytest.raises(RuntimeError):
        model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[backup, Interrupting(2)])
    assert int(model.layers[0].counter.value) == 2
    history = model.fit(x, y, batch_size=4, epochs=EPOCHS, verbose=0, callbacks=[backup])
    assert history.epoch == list(range(EPOCHS))
    assert int(model.layers[0].counter.value) == EPOCHS * STEPS


def test_no_callback_sees_a_step_before_the_initial_state_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kill then would leave what a step of a training that is never resumed has done."""
    put, seen = FileStore.put, []

    def slowly(store: FileStore, key: str, data: Any) -> None:
        time.sleep(0.3 if "packs/" in key else 0.0)
        put(store, key, data)

    def look(batch: int, logs: Any) -> None:
        seen.append(bool(json.loads((tmp_path / "training/head.json").read_text())["checkpoints"]))

    monkeypatch.setattr(FileStore, "put", slowly)
    train(tmp_path, keras.callbacks.LambdaCallback(on_train_batch_end=look))
    assert seen == [True] * EPOCHS * STEPS


def test_damaged_newest_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError):
        train(tmp_path, Interrupting(epoch=3), double_checkpoint=True)
    newest = json.loads((tmp_path / "training/head.json").read_text())["checkpoints"][0]
    (tmp_path / newest["manifest"]).write_bytes(b"garbage")
    model, history, _ = train(tmp_path, double_checkpoint=True)
    assert history.epoch[-1] == EPOCHS - 1
    assert int(model.layers[0].counter.value) == EPOCHS * STEPS
    assert newest["manifest"] in caplog.text


def test_all_checkpoints_damaged(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        train(tmp_path, Interrupting(epoch=3))
    for manifest in (tmp_path / "training/checkpoints").iterdir():
        manifest.unlink()
    with pytest.raises(CheckpointError, match="none of the 2"):
        train(tmp_path)


def test_folder_is_removed_at_the_end_only_if_wished(tmp_path: Path) -> None:
    _, _, kept = train(tmp_path / "kept")
    assert (tmp_path / "kept").exists()
    assert kept.final.step == EPOCHS * STEPS
    train(tmp_path / "removed", delete_checkpoint=True)
    assert not (tmp_path / "removed").exists()


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    train(tmp_path, delete_checkpoint=True)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_wrong_arguments_are_refused_in_keras_words() -> None:
    with pytest.raises(ValueError, match="Empty `backup_dir`"):
        BackupAndRestore("")
    with pytest.raises(ValueError, match="Invalid value for argument `save_freq`"):
        BackupAndRestore("x", save_freq="batch")


def test_more_epochs_continue_a_finished_training(tmp_path: Path) -> None:
    train(tmp_path)
    x, y = numbers()
    model = make_model()
    backup = BackupAndRestore(str(tmp_path), delete_checkpoint=False)
    history = model.fit(x, y, batch_size=4, epochs=EPOCHS + 2, verbose=0, callbacks=[backup])
    assert history.epoch == list(range(EPOCHS + 2))
    assert int(model.layers[0].counter.value) == (EPOCHS + 2) * STEPS


@pytest.mark.slow
@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("steps", [3 * STEPS, 2 * STEPS + 1])
def test_fewer_epochs_than_are_done_leave_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any, steps: int, delete: bool
) -> None:
    """Within an epoch too: later, with more epochs, the training goes on exactly."""
    caplog.set_level(logging.WARNING)
    model, history, _ = train(tmp_path / "whole")
    expected = outcome(model, history)
    keras.utils.set_random_seed(7)
    with pytest.raises(RuntimeError):
        train(tmp_path / "broken", Interrupting(steps=steps + 1), save_freq=1)
    x, y = numbers()
    fewer = BackupAndRestore(str(tmp_path / "broken"), save_freq=1, delete_checkpoint=delete)
    make_model().fit(x, y, batch_size=4, epochs=2, verbose=2, callbacks=[fewer])
    ended = "ended already" in capfd.readouterr().out
    stays = "nothing is left to do, and the checkpoint stays" in caplog.text
    assert (ended, stays) == (False, True)
    model, history, _ = train(tmp_path / "broken", save_freq=1)
    assert outcome(model, history) == expected


# ---------------------------------------------------------------------- and exact besides


@pytest.mark.parametrize(
    "data", few(["batches", "tf.data", "numpy", "endless", "shuffled once", "pydataset"], 2)
)
@pytest.mark.parametrize("steps", [5, pytest.param(9, marks=pytest.mark.chaos)])
def test_every_kind_of_data_resumes_exactly(tmp_path: Path, data: str, steps: int) -> None:
    """Mid-epoch; the second model is initialised otherwise, so all must have been restored."""
    model, history, _ = train(tmp_path / "whole", data=data, save_freq=2)
    expected = outcome(model, history)
    keras.utils.set_random_seed(7)
    with pytest.raises(RuntimeError):
        train(tmp_path / "broken", Interrupting(steps=steps), data=data, save_freq=2)
    keras.utils.set_random_seed(99)
    model, history, _ = train(tmp_path / "broken", data=data, save_freq=2)
    assert outcome(model, history) == expected


@pytest.mark.parametrize("data", ["cached", "generator"])
def test_data_that_can_not_be_sought_is_said_once_and_resumed_at_an_epoch(
    tmp_path: Path, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(RuntimeError):
        train(tmp_path, Interrupting(steps=2 * STEPS + 2), data=data, save_freq=1)
    said = [r for r in caplog.records if "not exact" in r.getMessage()]
    assert len(said) == 1
    assert "runner.Batches" in said[0].getMessage()
    _, history, _ = train(tmp_path, data=data, save_freq=1)
    assert history.epoch == list(range(EPOCHS))


@pytest.mark.slow
def test_another_order_of_a_shuffle_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's seed is a part of the order, and another program may have another."""
    with pytest.raises(RuntimeError):
        train(tmp_path, Interrupting(steps=5), data="shuffled once", save_freq=2)
    real = tf.random.set_seed
    monkeypatch.setattr(tf.random, "set_seed", lambda seed: real(seed + 1))
    caplog.set_level(logging.WARNING)
    train(tmp_path, data="shuffled once", save_freq=2)
    assert "shuffled by seed 7/5 -> " in caplog.text
    assert "shuffled by seed 8/5" in caplog.text


@pytest.mark.slow
def test_where_a_fit_goes_on_is_said_if_fit_says_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each time: what was said, and where the first epoch of the fit began."""
    x, y = numbers()
    seen: list[str] = []

    class Where(Interrupting):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            at = backup.position
            within = f", after {at.step} of its steps" if at.step else ""
            seen.append(f"BackupAndRestore: resuming with epoch {at.epoch + 1}{within}")

    def said(verbose: int, epochs: int, **interrupting: int) -> str:
        seen.clear()
        arguments = {"batch_size": 4, "epochs": epochs, "verbose": verbose}
        callbacks = [backup, Where(**interrupting)]
        with contextlib.suppress(RuntimeError):
            make_model().fit(x, y, callbacks=callbacks, **arguments)
        lines = capsys.readouterr().out.splitlines()
        return "".join(line for line in lines if line.startswith("BackupAndRestore"))

    def fresh() -> BackupAndRestore:
        return BackupAndRestore(str(tmp_path), save_freq=1, delete_checkpoint=False)

    backup = fresh()
    assert said(2, EPOCHS, steps=STEPS + 2) == ""
    backup = fresh()
    assert said(0, EPOCHS, steps=1) == ""
    backup = fresh()
    assert said(2, EPOCHS, epoch=2) == seen[0]
    backup = fresh()
    assert said(2, EPOCHS) == seen[0]
    backup = fresh()
    ended = f"BackupAndRestore: this training has ended already, at step {STEPS * EPOCHS}"
    assert said(2, EPOCHS) == ended


def test_progress_is_the_same_with_and_without_checkpoints(tmp_path: Path) -> None:
    """The callback itself changes no bit of a training on our data."""
    x, y = numbers()
    model = make_model()
    plain = model.fit(Batches(x, y, batch_size=4, seed=3), epochs=EPOCHS, verbose=0)
    expected = ([w.tobytes() for w in model.get_weights()], plain.history)
    keras.utils.set_random_seed(7)
    model = make_model()
    backup = BackupAndRestore(str(tmp_path), save_freq=1)
    data = Batches(x, y, batch_size=4, seed=3)
    history = model.fit(data, epochs=EPOCHS, verbose=0, callbacks=[backup])
    assert ([w.tobytes() for w in model.get_weights()], history.history) == expected


def test_epochs_have_different_orders_in_fit(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    class Seeing(keras.Sequential):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            seen.append(data[1].numpy().ravel().tolist())
            return super().train_step(data)

    y = np.arange(8, dtype="float32").reshape(-1, 1)
    model = Seeing([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    data = Batches(y, y, batch_size=8, seed=3)
    model.fit(data, epochs=3, verbose=0, callbacks=[BackupAndRestore(str(tmp_path))])
    expected = [batch[1].ravel().tolist() for e in range(3) for batch in data.numpy_batches(e)]
    assert seen == expected
    assert len({tuple(batch) for batch in seen}) == 3


def test_stop_saves_and_says_so(tmp_path: Path) -> None:
    asked = iter([None] * 6 + ["notice from the machine"])
    with pytest.raises(PreemptedError, match=r"notice from the machine.*step 5"):
        train(tmp_path, data="batches", should_stop=lambda: next(asked))
    _, history, backup = train(tmp_path, data="batches")
    assert history.epoch == list(range(EPOCHS))
    assert backup.final.step == EPOCHS * STEPS


@pytest.mark.slow
def test_stop_within_the_validation_saves_the_state_before_it(tmp_path: Path) -> None:
    in_validation = []

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            in_validation.append(batch)

    model, history, _ = train(tmp_path / "whole", data="batches")
    expected = outcome(model, history)
    keras.utils.set_random_seed(7)
    with pytest.raises(PreemptedError, match="step 3"):
        train(
            tmp_path / "stopped",
            Watch(),
            data="batches",
            should_stop=lambda: "now" if in_validation else None,
        )
    assert in_validation == [0]
    keras.utils.set_random_seed(99)
    model, history, _ = train(tmp_path / "stopped", data="batches")
    assert outcome(model, history) == expected


def test_a_second_program_on_the_same_folder_stops_the_first(tmp_path: Path) -> None:
    class Second(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                other = BackupAndRestore(str(tmp_path))
                other._folder._claim()

    with pytest.raises(LeaseLostError, match="taken over"):
        train(tmp_path, Second(), save_freq=1)


def test_another_model_is_refused_with_its_differences(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        train(tmp_path, Interrupting(epoch=1))
    x, y = numbers()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    with pytest.raises(CheckpointError, match=r"another model or optimizer.*not in the") as refused:
        model.fit(x, y, verbose=0, callbacks=[BackupAndRestore(str(tmp_path))])
    assert "Or begin a new training, with another backup_dir." in refused.value.__notes__


@pytest.mark.slow
def test_other_numerics_are_said_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError):
        train(tmp_path, Interrupting(epoch=1))
    x, y = numbers()
    model = make_model()
    model.run_eagerly = True
    backup = BackupAndRestore(str(tmp_path), delete_checkpoint=False)
    history = model.fit(x, y, batch_size=4, epochs=EPOCHS, verbose=0, callbacks=[backup])
    assert history.epoch == list(range(EPOCHS))
    assert "continued on different numerics: eager False -> True" in caplog.text
    records = [json.loads(p.read_text()) for p in (tmp_path / "training/log").iterdir()]
    assert any("eager False -> True" in note for r in records for note in r.get("notes", []))


def test_other_data_are_said_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same number of examples, and one value of them is another."""
    with pytest.raises(RuntimeError):
        train(tmp_path, Interrupting(epoch=1))
    x, y = numbers()
    x[0, 0] += 1
    backup = BackupAndRestore(str(tmp_path))
    make_model().fit(x, y, batch_size=4, epochs=EPOCHS, verbose=0, callbacks=[backup])
    assert "continued on different numerics: the data's content" in caplog.text


def test_an_evaluation_may_have_it_in_its_list(tmp_path: Path) -> None:
    x, y = numbers()
    model = make_model()
    backup = BackupAndRestore(str(tmp_path), delete_checkpoint=False)
    model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=[backup])
    model.evaluate(x, y, verbose=0, callbacks=[backup])


def test_an_interval_is_given_once(tmp_path: Path) -> None:
    BackupAndRestore(str(tmp_path), every="auto")
    with pytest.raises(ValueError, match="give one"):
        BackupAndRestore(str(tmp_path), every="30s", save_freq=3)
    with pytest.raises(ValueError, match="save_freq"):
        BackupAndRestore(str(tmp_path), save_freq=True)


def test_used_outside_of_fit_it_says_so() -> None:
    class Wrapper(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def on_train_begin(self, logs: Any = None) -> None:
            self.inner.on_train_begin(logs)

    x, y = numbers()
    with pytest.raises(TrainingError, match="fit's own list"):
        make_model().fit(x, y, verbose=0, callbacks=[Wrapper(BackupAndRestore("unused"))])


def test_unbuilt_model_is_built_from_the_data(tmp_path: Path) -> None:
    x, y = numbers()
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", "mse")
    backup = BackupAndRestore(str(tmp_path), delete_checkpoint=False)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[backup])
    assert backup.final is not None
    assert backup.final.step == 1


@pytest.mark.slow
def test_a_fit_after_a_restored_fit_begins_at_its_own_first_epoch(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        train(tmp_path, Interrupting(epoch=2))
    model, _, _ = train(tmp_path)
    x, y = numbers()
    assert model.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]


def test_private_api_is_all_there() -> None:
    private.self_test(backends.current().missing())
    frames.self_test()


def test_a_backend_that_writes_into_a_held_buffer_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its checkpoints would silently hold a later step."""
    monkeypatch.setattr(tensorflow.Reader, "read", lambda self: self._variables)
    with pytest.raises(TrainingError, match="spares its buffer"):
        private.self_test(backends.current().missing())


def test_missing_private_api_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_LOCALS", ("callbacks", "renamed"))
    with pytest.raises(TrainingError, match=r"'renamed' in Model\.fit"):
        frames.self_test()
