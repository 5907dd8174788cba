"""Structured data with a FeatureSpace: crossed, hashed and normalized features of a CSV table."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.utils import FeatureSpace

from tests.chaos.examples.common import Backup, Result


def table() -> Any:
    rng = np.random.default_rng(2)
    rows = [
        f"{rng.integers(20, 80)},{rng.choice(['low', 'high', 'fixed'])},"
        f"{rng.normal():.3f},{rng.integers(0, 4)},{rng.integers(0, 2)}"
        for _ in range(96)
    ]
    Path("table.csv").write_text("\n".join(["age,blood,slope,vessels,target", *rows]) + "\n")
    data = tf.data.experimental.make_csv_dataset(
        "table.csv", 16, label_name="target", num_epochs=1, shuffle=False
    )
    return data.map(lambda x, y: ({name: part[:, None] for name, part in x.items()}, y[:, None]))


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(45)
    space = FeatureSpace(
        features={
            "age": FeatureSpace.integer_categorical(num_oov_indices=1),
            "blood": FeatureSpace.string_categorical(num_oov_indices=0),
            "slope": FeatureSpace.float_normalized(),
            "vessels": FeatureSpace.integer_hashed(num_bins=4),
        },
        crosses=[FeatureSpace.cross(("blood", "vessels"), crossing_dim=8)],
        output_mode="concat",
    )
    data = table()
    space.adapt(data.map(lambda x, y: x))
    encoded = space.get_encoded_features()
    h = layers.Dropout(0.5)(layers.Dense(8, "relu")(encoded))
    model = keras.Model(encoded, layers.Dense(1, "sigmoid")(h))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    ready = data.map(lambda x, y: (space(x), y), num_parallel_calls=tf.data.AUTOTUNE)
    history = model.fit(ready.prefetch(2), epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
