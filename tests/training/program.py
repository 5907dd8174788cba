"""A training program that can be told when to kill itself; run as a process by the tests.

Arguments: a folder to work in, and a JSON object of options. KILL in the environment says
when this process sends itself SIGKILL, ATTEMPT which try this is: later tries seed everything
differently, so that whatever is equal in the end was restored.

With `--serve` it imports everything once and then forks a process for each attempt that it is
told on its input: many kills take half the time.
"""

import hashlib
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from runner.checkpoint.manifest import Reference
from runner.checkpoint.reading import read_checkpoint
from runner.store.base import Buffer

EXAMPLES, BATCH, CLASSES = 90, 16, 4
FOLDER = Path()
OPTIONS: dict[str, Any] = {}
ATTEMPT = 0
KILL: dict[str, Any] = {}


def configure(folder: str, options: dict[str, Any], number: int, kill: Any) -> None:
    """Say what this process is to do."""
    global FOLDER, OPTIONS, ATTEMPT, KILL
    FOLDER, OPTIONS, ATTEMPT, KILL = Path(folder), options, number, kill or {}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def seed_everything(keras: Any) -> None:
    random.seed(ATTEMPT + 3)
    np.random.seed(ATTEMPT + 5)
    keras.utils.set_random_seed(1000 + ATTEMPT)


class KillingStore:
    """A store that kills the process before or after its n-th call of a kind."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.url = inner.url
        self.single_writer = inner.single_writer
        self.left = KILL.get("n", 1)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        return method if name not in ("put", "create", "delete") else self._watched(name, method)

    def _watched(self, name: str, method: Any) -> Any:
        def call(key: str, *data: Buffer) -> Any:
            hit = name == KILL["operation"] and KILL["key"] in key
            self.left -= hit
            if hit and self.left == 0 and KILL["when"] == "before":
                die()
            result = method(key, *data)
            if hit and self.left == 0:
                die()
            return result

        return call


def killer(keras: Any, steps: int) -> Any:
    at = KILL["at"] if KILL else 0

    class Killer(keras.callbacks.Callback):  # type: ignore[misc]
        """Kills the process at a chosen kind of moment."""

        def __init__(self) -> None:
            super().__init__()
            self.epoch = 0

        def get_state(self) -> dict[str, Any]:
            return {}

        def set_state(self, state: dict[str, Any]) -> None:
            pass

        def _moment(self, kind: str, number: int) -> None:
            if KILL and KILL["kind"] == kind and number >= at:
                die()

        def on_train_begin(self, logs: Any = None) -> None:
            if ATTEMPT:
                self._count_down()

        def _count_down(self) -> None:
            if KILL and KILL["kind"] == "timer":
                threading.Timer(KILL["seconds"], die).start()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch
            self._moment("epoch_begin", epoch)

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._moment("batch_begin", self.epoch * steps + batch)
            if (ATTEMPT, self.epoch, batch) == (0, 0, 1):  # now its first state is stored
                self._count_down()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._moment("batch_end", self.epoch * steps + batch)

        def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._moment("validation", self.epoch)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self._moment("epoch_end", epoch)

        def on_train_end(self, logs: Any = None) -> None:
            self._moment("train_end", 0)

    return Killer()


def pictures() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (EXAMPLES, 12, 12, 3)).astype("uint8")
    y = rng.integers(0, CLASSES, EXAMPLES)
    x[np.arange(EXAMPLES), :4, y] = 255
    return x, y


def network(keras: Any) -> Any:
    layers = keras.layers
    inputs = keras.Input((12, 12, 3), dtype="uint8")
    h = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for entry in OPTIONS.get("augmentation", ["RandomFlip", "RandomRotation", "RandomZoom"]):
        if isinstance(entry, list):
            name, named = entry
            if not hasattr(layers, name):  # of a later Keras
                continue
            layer = getattr(layers, name)(**named)
        else:
            layer = getattr(layers, entry)(*(() if entry == "RandomFlip" else (0.1,)))
        if keras.config.backend() == "jax":
            layer.supports_jit = True
        h = layer(h)
    h = layers.Conv2D(8, 3, use_bias=False)(h)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.SpatialDropout2D(0.2)(h)
    h = layers.Conv2D(8, 3, activation="relu")(layers.MaxPooling2D()(h))
    h = layers.GlobalAveragePooling2D()(h)
    h = layers.Dropout(0.1)(h)
    kind = custom_model(keras) if OPTIONS.get("custom_step") else keras.Model
    return kind(inputs, layers.Dense(CLASSES, activation="softmax", dtype="float32")(h))


def custom_model(keras: Any) -> Any:
    import tensorflow as tf

    class Custom(keras.Model):  # type: ignore[misc]
        """Clips the gradients itself, and counts its steps in a variable of its own."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                predicted = self(x, training=True)
                loss = self.compute_loss(x=x, y=y, y_pred=predicted)
            gradients = tape.gradient(loss, self.trainable_weights)
            gradients, _ = tf.clip_by_global_norm(gradients, 0.5)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            self.seen.assign_add(1.0)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, predicted)
            return {metric.name: metric.result() for metric in self.metrics}

    return Custom


def stateful_callback(keras: Any) -> Any:
    class Restless(keras.callbacks.Callback):  # type: ignore[misc]
        """Changes the learning rate by what it remembers of all steps."""

        def __init__(self) -> None:
            super().__init__()
            self._total = 0.0  # not a plain attribute of the training: it says itself what it is
            self._lock = threading.Lock()  # and this can't be saved by anybody

        def get_state(self) -> dict[str, Any]:
            return {"total": self._total}

        def set_state(self, state: dict[str, Any]) -> None:
            self._total = state["total"]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._total += float(logs["loss"])
            self.model.optimizer.learning_rate = 0.01 / (1.0 + self._total)

    return Restless()


def compiled(keras: Any, steps: int) -> Any:
    model = network(keras)
    rate: Any = OPTIONS.get("learning_rate", 0.01)
    if OPTIONS.get("schedule"):
        rate = keras.optimizers.schedules.CosineDecay(0.01, 5 * steps, warmup_steps=4)
    arguments = OPTIONS.get("optimizer_arguments", {})
    optimizer = getattr(keras.optimizers, OPTIONS.get("optimizer", "Adam"))(rate, **arguments)
    if OPTIONS.get("loss_scale"):
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=2.0**10, dynamic_growth_steps=3
        )
    model.compile(
        optimizer,
        "sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")],
        steps_per_execution=OPTIONS.get("steps_per_execution", 1),
        jit_compile=OPTIONS.get("jit_compile", False),
        run_eagerly=OPTIONS.get("eager", False),
        auto_scale_loss=not OPTIONS.get("loss_scale"),
    )
    return model


def callbacks(keras: Any) -> list[Any]:
    kinds = keras.callbacks
    chosen = [
        kinds.EarlyStopping(
            "val_loss", patience=OPTIONS.get("patience", 3), restore_best_weights=True
        ),
        kinds.CSVLogger("log.csv"),
        kinds.ModelCheckpoint(
            "best.weights.h5",
            monitor="val_loss",
            save_best_only=True,
            save_weights_only=True,
        ),
    ]
    if OPTIONS.get("plateau", True) and not OPTIONS.get("schedule"):
        chosen.append(kinds.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.01))
    if OPTIONS.get("scheduler"):
        chosen.append(kinds.LearningRateScheduler(lambda epoch, rate: rate * 0.9))
    if OPTIONS.get("stateful_callback"):
        chosen.append(stateful_callback(keras))
    if OPTIONS.get("terminate"):
        chosen.append(kinds.TerminateOnNaN())
    if OPTIONS.get("tensorboard"):
        chosen.append(kinds.TensorBoard("board", update_freq=2))
    if OPTIONS.get("swap_ema"):
        chosen.append(kinds.SwapEMAWeights())
    return chosen


def strategy(keras: Any) -> Any:
    count = OPTIONS.get("replicas", 0)
    if not count:
        return nullcontext()
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(count)]).scope()


def prepare(keras: Any) -> None:
    from runner.training import numerics

    if count := OPTIONS.get("replicas", 0):
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * count,
        )
    threads = OPTIONS.get("threads", 1) if not ATTEMPT else OPTIONS.get("later_threads", 1)
    numerics.apply(threads=threads, deterministic=OPTIONS.get("deterministic", True))
    if policy := OPTIONS.get("precision"):
        keras.mixed_precision.set_global_policy(policy)
    seed_everything(keras)


def main() -> None:
    import keras

    from runner import BackupAndRestore, Batches

    os.chdir(FOLDER)  # relative names, so that results of two folders compare
    prepare(keras)
    x, y = pictures()
    weights: dict[str, Any] = {}
    if OPTIONS.get("sample_weight"):
        weights["sample_weight"] = np.linspace(0.5, 1.5, EXAMPLES, dtype="float32")
    if OPTIONS.get("class_weight"):
        weights["class_weight"] = {label: 0.5 + label / 2 for label in range(CLASSES)}
    data = Batches(x, y, batch_size=BATCH, seed=11, **weights)
    with strategy(keras):
        model = compiled(keras, len(data))
    backup = BackupAndRestore(
        "backup",
        delete_checkpoint=False,
        every=OPTIONS.get("every", "3 steps"),
        best="val_loss",
        keep=OPTIONS.get("keep", 2),
    )
    if KILL and KILL["kind"] == "store":
        backup._folder._store = KillingStore(backup._folder._store)
    chosen = callbacks(keras)
    fit_arguments: dict[str, Any] = {}
    if OPTIONS.get("validation_steps"):
        fit_arguments["validation_steps"] = OPTIONS["validation_steps"]
    if OPTIONS.get("validation_freq"):
        fit_arguments["validation_freq"] = OPTIONS["validation_freq"]
    history = model.fit(
        data,
        epochs=OPTIONS.get("epochs", 5),
        validation_data=(x[:40], y[:40]),
        validation_batch_size=BATCH,
        verbose=0,
        callbacks=[*chosen, backup, killer(keras, len(data))],
        **fit_arguments,
    )
    if KILL and KILL["kind"] == "after_final":
        die()
    Path("result.json").write_text(json.dumps(result(model, backup, history, chosen)))


def result(model: Any, backup: Any, history: Any, chosen: list[Any]) -> dict[str, Any]:
    from runner.training.state.observers import Observers
    from runner.training.state.variables import Variables

    store = backup._folder._store
    final = read_checkpoint(store, backup.final)
    in_memory = {name: np.asarray(tensor) for name, tensor in Variables(model).snapshot()}
    state, arrays = Observers(chosen, warn=lambda _: None).capture()
    best = backup._folder._checkpointer.ledger.best
    return {
        "digest": backup.final.digest,
        "variables": {name: sha(array) for name, array in in_memory.items()},
        "saved": {n: sha(a) for n, a in final.tensors.items() if not n.startswith("python/")},
        "history": {key: [value.hex() for value in vs] for key, vs in history.history.items()},
        "epochs": history.epoch,
        "callbacks": json.dumps(state["callbacks"], sort_keys=True),
        "arrays": {name: sha(array) for name, array in arrays},
        "random": [random.random(), np.random.random()],
        "csv": Path("log.csv").read_text(),
        "best": best.digest if isinstance(best, Reference) else None,
        "step": backup.final.step,
        "jit": bool(model.jit_compile),
    }


def sha(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def serve(main: Callable[[], None]) -> None:
    """Fork a process for each line of the input, to run `main`; answer with its exit code.

    Nothing of TensorFlow has run before the fork, so its threads and state are the child's own.
    """
    import keras  # noqa: F401

    import runner.training.trainer  # noqa: F401
    from runner import BackupAndRestore, Batches  # noqa: F401

    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            child_main(task, main)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def child_main(task: dict[str, Any], main: Callable[[], None]) -> NoReturn:
    try:
        for descriptor, path in ((0, os.devnull), (1, os.devnull), (2, task["errors"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
        configure(task["folder"], task["options"], task["number"], task["kill"])
        main()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the parent's loop must not go on here
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve(main)
    else:
        configure(
            sys.argv[1],
            json.loads(sys.argv[2]),
            int(os.environ.get("ATTEMPT", "0")),
            json.loads(os.environ.get("KILL", "null")),
        )
        main()
