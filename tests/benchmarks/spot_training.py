"""A small training to be killed and begun again.

    python -m tests.benchmarks.spot_training HOW DIR

Each step is written down, and what the training ended with. HOW is runner, keras, or restart.
"""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

EPOCHS, STEPS, BATCH = 12, 500, 32  #: 20 ms a step: two hours of 600 s an epoch, 60 times as fast
STEP_SECONDS = 0.02
SAVE_SECONDS = 2  #: two minutes, 60 times as fast


def main(how: str, folder: Path) -> None:
    import keras
    import numpy as np

    import runner

    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    x = random.normal(size=(STEPS * BATCH, 16)).astype("float32")
    y = random.integers(0, 4, len(x))
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(4, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    backup: dict[str, Any] = {
        "runner": lambda: runner.BackupAndRestore(str(folder / "backup"), every=f"{SAVE_SECONDS}s"),
        "keras": lambda: keras.callbacks.BackupAndRestore(folder / "backup"),
    }

    class Pace(keras.callbacks.Callback):  # type: ignore[misc]
        """A step takes as long as on a machine that is busy with it; and is written down."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            time.sleep(STEP_SECONDS)
            with (folder / "steps").open("a") as file:
                file.write(f"{time.time()}\n")

    callbacks = [Pace(), *([backup[how]()] if how in backup else [])]
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    digest = hashlib.sha256()
    for variable in [*model.variables, *model.optimizer.variables]:
        digest.update(np.asarray(variable).tobytes())
    (folder / "digest").write_text(digest.hexdigest())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
