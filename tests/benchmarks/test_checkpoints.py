"""What one checkpoint costs, against everything Keras and TensorFlow offer, in one training.

The methods take turns in one `fit` of MyInception with Adam, so that whatever disturbs the
machine disturbs all of them.
"""

import ctypes
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks._tables import REPEATS, spread, table
from tests.benchmarks._training import (
    Commits,
    OnDemand,
    at_each_step,
    batches,
    myinception,
    seconds,
    trained,
)

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

AUDITS = 2  #: of our checkpoints look for what is not saved, once in a training
OURS = "runner.BackupAndRestore"
KERAS = "keras BackupAndRestore"
STATUS = Path("/proc/self/status")


class Method:
    """One way to save and to load."""

    def __init__(self, save: Callable[[], object], load: Callable[[], object], path: Path) -> None:
        self.save, self.load, self.path = save, load, path
        self.blocked: list[float] = []
        self.memory: list[int] = []
        self.restore: list[float] = []

    @property
    def bytes(self) -> int:
        files = [self.path] if self.path.is_file() else self.path.parent.glob(f"{self.path.name}*")
        return sum(f.stat().st_size for top in files for f in [top, *top.rglob("*")] if f.is_file())


def test_one_checkpoint(tmp_path: Path) -> None:
    from runner.training.state.variables import Variables

    model = myinception()
    methods, missing = others(model, tmp_path)
    commits, every = Commits(tmp_path / "ours"), OnDemand()
    memory: list[int] = []
    cycle = 2 * len(methods) + 6  # steps: each method has one and a pause after it; ours has six
    names = list(methods)

    def before(step: int) -> None:
        place = step % cycle
        if place == cycle - 4 and step > cycle:
            alone[0] = peak_memory() - begun[0]
        if place == cycle - 1 and step > cycle:  # ours has been written since
            commits.checkpointer.wait()
            memory.append(max(0, peak_memory() - begun[0] - alone[0]))

    def after(step: int) -> None:
        place = step % cycle
        if step < cycle and place % 2 == 0 and place // 2 < len(methods):
            methods[names[place // 2]].save()  # to warm up
        elif place == cycle - 6:  # what two steps need without a checkpoint
            begun[0] = reset_memory()
        elif place == cycle - 3:
            begun[0] = reset_memory()
            every.wanted = step > cycle
        elif place % 2 == 0 and place // 2 < len(methods):
            method = methods[names[place // 2]]
            start = reset_memory()
            method.blocked.append(seconds(method.save))
            method.memory.append(peak_memory() - start)

    begun, alone = [0], [0]
    steps = cycle * (REPEATS + 1 + AUDITS) + 1
    loop = trained(model, batches(steps), commits, every, [at_each_step(before, after)])
    # the first is that of step 0, waited for on purpose; the next ones look for what is not saved
    audited = loop.saving.blocked_seconds[1 : 1 + AUDITS]
    blocked = loop.saving.blocked_seconds[1 + AUDITS :]
    written = commits.bytes_written[1] - commits.bytes_written[0]
    variables = Variables(model)

    def restore() -> None:
        restored = commits.again().restore()
        assert restored is not None
        variables.assign(restored.tensors)

    restoring = [seconds(restore) for _ in range(REPEATS)]
    for method in methods.values():
        method.restore = [seconds(method.load) for _ in range(REPEATS)]
    anchor = methods[KERAS].blocked
    rows = [row(OURS, blocked, written, memory, restoring, anchor)]
    rows += [
        row(name, m.blocked, m.bytes, m.memory, m.restore, anchor) for name, m in methods.items()
    ]
    rows += [(name, why, "", "", "", "") for name, why in missing.items()]
    print(f"\n  ours: {spread([1e3 * one for one in audited])} ms at the first {AUDITS}")
    print("  ours: memory above the peak of a step alone; the others' saves fall between steps")
    table(
        f"One checkpoint of MyInception with Adam ({model.count_params():,} parameters,"
        f" {len(variables.names)} variables); median (range) of {REPEATS}",
        ("", "training blocked, ms", "of Keras's", "MB", "extra memory, MB", "restore, s"),
        rows,
    )


def row(
    name: str,
    blocked: list[float],
    size: int,
    memory: list[int],
    restore: list[float],
    anchor: list[float],
) -> tuple[str, ...]:
    share = statistics.median(anchor) / statistics.median(blocked)
    return (
        name,
        spread([1e3 * one for one in blocked]),
        f"1/{share:.1f}",
        f"{size / 1e6:.1f}",
        spread([one / 1e6 for one in memory], digits=0) if memory else "?",
        spread(restore, digits=2),
    )


def others(model: Any, folder: Path) -> tuple[dict[str, Method], dict[str, str]]:
    """All other ways, and why some are not there."""
    import keras

    def synced() -> Any:
        """The model with its variables filled, as Keras's callbacks fill them under JAX."""
        if keras.config.backend() == "jax":
            model.jax_state_sync()
        return model

    backup = keras.callbacks.BackupAndRestore(str(folder / "keras"))
    backup.set_model(model)
    whole = keras.callbacks.ModelCheckpoint(str(folder / "model.keras"))
    whole.set_model(model)
    weights = str(folder / "w.weights.h5")
    methods = {
        KERAS: Method(backup._save_model, backup._load_model, folder / "keras"),
        "keras ModelCheckpoint": Method(
            lambda: whole._save_model(0, 0, {}),
            lambda: keras.models.load_model(folder / "model.keras"),
            folder / "model.keras",
        ),
        "model.save_weights": Method(
            lambda: synced().save_weights(weights),
            lambda: model.load_weights(weights),
            Path(weights),
        ),
    }
    missing = {}
    if keras.config.backend() == "tensorflow":
        methods["tf.train.Checkpoint"] = tensorflow(model, folder / "tf")
    else:
        missing["tf.train.Checkpoint"] = "for TensorFlow's variables only"
    try:
        methods["keras OrbaxCheckpoint"] = orbax(model, folder / "orbax")
    except (AttributeError, ImportError) as error:
        missing["keras OrbaxCheckpoint"] = f"not here: {str(error).splitlines()[0][:60]}"
    return methods, missing


def tensorflow(model: Any, path: Path) -> Method:
    import tensorflow as tf

    state = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    return Method(lambda: state.write(str(path)), lambda: state.read(str(path)), path)


def orbax(model: Any, folder: Path) -> Method:
    """In the background, as it does by itself; the write under way is waited for afterwards."""
    import keras

    callback = keras.callbacks.OrbaxCheckpoint(str(folder))
    callback.set_model(model)
    count = iter(range(1, 1_000_000))
    return Method(
        lambda: callback._save_checkpoint(next(count)),
        lambda: (callback.wait_until_finished(), keras.models.load_model(folder)),
        folder,
    )


def reset_memory() -> int:
    """Begin a new peak; the memory in use now."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak_memory() -> int:
    return status("VmHWM")


def status(field: str) -> int:
    line = next(one for one in STATUS.read_text().splitlines() if one.startswith(field))
    return int(line.split()[1]) * 1024
