"""A training on each kind of data that fit takes; run as a process, and killed, by the tests.

Arguments and `--serve` are those of `program.py`; the option `kind` names the data.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tests.training import program

ROWS, BATCH, EPOCHS = 52, 4, 3
STEPS = ROWS // BATCH
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def batches(**options: Any) -> Any:
    """Batches by number, of rows that are shuffled by generators of all kinds between epochs."""
    import keras

    class Data(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(**options)
            self.rows = np.arange(ROWS)
            self.generator = np.random.default_rng(3)
            self.epoch = 0

        def __len__(self) -> int:
            return STEPS

        def __getitem__(self, index: int) -> Any:
            rows = self.rows[index * BATCH :][:BATCH]
            return X[rows] + self.epoch, Y[rows]

        def on_epoch_end(self) -> None:
            self.generator.shuffle(self.rows)
            np.random.shuffle(self.rows[:9])
            self.epoch += 1

    return {"x": Data()}


def begun(**options: Any) -> Any:
    """Batches that change as an epoch begins."""
    import keras

    class Data(keras.utils.PyDataset):  # type: ignore[misc]
        epoch = 0

        def __len__(self) -> int:
            return STEPS

        def __getitem__(self, index: int) -> Any:
            rows = np.random.default_rng([7, self.epoch, index]).integers(ROWS, size=BATCH)
            return X[rows], Y[rows]

        def on_epoch_begin(self) -> None:
            self.epoch += 1

    return {"x": Data(**options), "shuffle": False}


def endless(**options: Any) -> Any:
    import keras

    class Data(keras.utils.PyDataset):  # type: ignore[misc]
        num_batches = None

        def __getitem__(self, index: int) -> Any:
            rows = np.random.default_rng([7, index]).integers(ROWS, size=BATCH)
            return X[rows], Y[rows]

    return {"x": Data(**options), "steps_per_epoch": 7}


# ---------------------------------------------------------------------- grain


def source() -> Any:
    import grain

    return grain.MapDataset.range(ROWS).shuffle(seed=3).map(lambda i: (X[i], Y[i])).batch(BATCH)


class Rows:
    """What processes of a DataLoader read."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


def loader(workers: int) -> Any:
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks for flags of its own
    sampler = grain.samplers.IndexSampler(ROWS, shuffle=True, seed=1, num_epochs=1)
    batch = grain.transforms.Batch(BATCH)
    return {
        "x": grain.DataLoader(
            data_source=Rows(), sampler=sampler, operations=[batch], worker_count=workers
        )
    }


# ---------------------------------------------------------------------- pipelines and pictures


def pipeline() -> Any:
    import tensorflow as tf

    tf.random.set_seed(7)  # the program's: a part of the order
    data = tf.data.Dataset.from_tensor_slices((X, Y)).cache().shuffle(20, seed=3)
    return data.map(lambda x, y: (2 * x, y), num_parallel_calls=2).batch(BATCH).prefetch(2)


def unknown_many() -> Any:
    return {"x": pipeline().filter(lambda x, _: x[0, 0] > -9)}


def pictures(form: str) -> Any:
    import keras
    from PIL import Image

    folder = program.FOLDER / "pictures"
    if not folder.exists():
        for index, row in enumerate(np.random.default_rng(5).integers(0, 255, (ROWS, 6, 6, 3))):
            path = folder / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row.astype(np.uint8)).save(path)
    size = {"image_size": (4, 4), "batch_size": BATCH, "seed": 4}
    if form == "tf":
        import tensorflow as tf

        tf.random.set_seed(7)
    return {
        "x": keras.utils.image_dataset_from_directory(folder, format=form, verbose=False, **size)
    }


def task() -> Any:
    """Arrays, given to a task of KerasHub, which prepares them by grain."""
    return {"x": X, "y": Y, "batch_size": BATCH}


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "PyDataset": batches,
    "PyDataset, threads": lambda: batches(workers=2),
    "PyDataset, processes": lambda: batches(workers=2, use_multiprocessing=True),
    "PyDataset, on_epoch_begin": begun,
    "PyDataset, endless": endless,
    "PyDataset, endless, threads": lambda: endless(workers=2),
    "MapDataset": lambda: {"x": source()},
    "MapDataset, endless": lambda: {"x": source().repeat(), "steps_per_epoch": 7},
    "IterDataset": lambda: {"x": source().to_iter_dataset()},
    "DataLoader": lambda: loader(0),
    "DataLoader, processes": lambda: loader(2),
    "KerasHub, arrays": task,
    "pipeline that reshuffles": lambda: {"x": pipeline()},
    "pipeline that reshuffles, of unknown length": unknown_many,
    "pipeline that reshuffles, endless": lambda: {"x": pipeline().repeat(), "steps_per_epoch": 7},
    "pictures, tf": lambda: pictures("tf"),
    "pictures, grain": lambda: pictures("grain"),
}


def metric(keras: Any) -> Any:
    class Seen(keras.metrics.Metric):  # type: ignore[misc]
        """A number that is another if the batches of an epoch come in another order."""

        def __init__(self) -> None:
            super().__init__()
            self.number = self.add_weight(name="number", initializer="zeros")

        def update_state(self, y: Any, _: Any, sample_weight: Any = None) -> None:
            self.number.assign(
                keras.ops.sin(self.number + 1.7) + keras.ops.sum(keras.ops.cast(y, "float32"))
            )

        def result(self) -> Any:
            return keras.ops.convert_to_tensor(self.number)

    return Seen()


def main() -> None:
    import keras

    from runner import BackupAndRestore

    program.seed_everything(keras)
    kind = program.OPTIONS["kind"]
    arguments = KINDS[kind]()
    layers = [keras.layers.Flatten(), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    if kind.startswith("KerasHub"):
        from keras_hub.models import Task

        inputs = keras.Input((3,))
        outputs = inputs
        for layer in layers:
            outputs = layer(outputs)
        model = Task(inputs, outputs)
    else:
        model = keras.Sequential(layers)
    model.compile("adam", "mse", metrics=[metric(keras)])
    steps = arguments.get("steps_per_epoch", STEPS)
    backup = BackupAndRestore(str(program.FOLDER / "backup"), save_freq=1, delete_checkpoint=False)
    # what the epoch's last step saved is committed when a kill comes at the epoch's end
    pause = 0.5 if program.KILL.get("kind") == "epoch_end" else 0
    late = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: time.sleep(pause if batch == steps - 1 else 0),
        on_epoch_end=lambda *_: time.sleep(pause),
    )
    callbacks = [late, program.killer(keras, steps), backup]
    history = model.fit(**arguments, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    result = {"history": history.history, "digest": backup.final.digest if backup.final else None}
    (program.FOLDER / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        program.serve(main)
    else:
        kill = json.loads(os.environ.get("KILL", "null"))
        number = int(os.environ.get("ATTEMPT", "0"))
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        program.configure(sys.argv[1], json.loads(sys.argv[2]), number, kill)
        main()
