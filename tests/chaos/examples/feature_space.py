"""Structured data with a FeatureSpace: crossed, hashed and normalized features of a CSV table."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import layers
from keras.utils import FeatureSpace

from tests.chaos.examples.common import Backup, Result
from tests.chaos.examples.files import write_table


def table(path: str) -> Any:
    data = tf.data.experimental.make_csv_dataset(
        path, 16, label_name="target", num_epochs=1, shuffle=False
    )
    return data.map(lambda x, y: ({name: part[:, None] for name, part in x.items()}, y[:, None]))


def network(data: Any) -> tuple[Any, Any]:
    """The model, and the data as it takes them."""
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
    space.adapt(data.map(lambda x, y: x))
    encoded = space.get_encoded_features()
    h = layers.Dropout(0.5)(layers.Dense(8, "relu")(encoded))
    model = keras.Model(encoded, layers.Dense(1, "sigmoid")(h))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    ready = data.map(lambda x, y: (space(x), y), num_parallel_calls=tf.data.AUTOTUNE)
    return model, ready.prefetch(2)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(45)
    write_table(Path("table.csv"))
    model, data = network(table("table.csv"))
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
