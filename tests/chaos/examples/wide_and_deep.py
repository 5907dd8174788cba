"""Wide and deep: two inputs by name, two outputs with their losses, weights and sample weights."""

from typing import Any

import keras
import numpy as np
from keras import layers

from runner import Batches
from tests.chaos.examples.common import Backup, Result, integers, normals


def network() -> tuple[Any, Any]:
    """The model, and its data."""
    numbers, kinds = (
        keras.Input((5,), name="numbers"),
        keras.Input((2,), dtype="int32", name="kinds"),
    )
    normalize = layers.Normalization()
    x = {"numbers": 3 + normals(96, 5), "kinds": integers(6, 96, 2)}
    normalize.adapt(x["numbers"])
    embedded = layers.Flatten()(layers.Embedding(6, 3)(kinds))
    deep = layers.Concatenate()([normalize(numbers), embedded])
    for width in (16, 8):
        deep = layers.Dropout(0.2)(layers.BatchNormalization()(layers.Dense(width, "relu")(deep)))
    crossed = layers.CategoryEncoding(36, "one_hot")(6 * kinds[:, 0] + kinds[:, 1])
    both = layers.concatenate([crossed, deep])
    outputs = {"price": layers.Dense(1)(both), "sold": layers.Dense(1, "sigmoid")(both)}
    model = keras.Model([numbers, kinds], outputs)
    model.compile(
        keras.optimizers.Adagrad(0.05),
        {"price": keras.losses.Huber(), "sold": "binary_crossentropy"},
        loss_weights={"price": 0.3, "sold": 1.0},
        metrics={"price": ["mae"], "sold": [keras.metrics.AUC(num_thresholds=20)]},
    )
    price = x["numbers"].sum(1, keepdims=True)
    y = {"price": price, "sold": (price > 15).astype("float32")}
    weight = np.linspace(0.5, 1.5, 96, dtype="float32")
    data = Batches(x, y, batch_size=12, seed=5, sample_weight={"price": weight, "sold": weight})
    return model, data


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(34)
    model, data = network()
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
