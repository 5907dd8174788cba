"""Mixup: two shuffled pipelines zipped and mixed by draws of the pipeline itself."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, digits


def mix(one: Any, other: Any) -> Any:
    count = tf.shape(one[0])[0]
    gammas = [tf.random.gamma((count,), 0.2) for _ in range(2)]
    share = gammas[0] / (gammas[0] + gammas[1])
    images = one[0] * share[:, None, None, None] + other[0] * (1 - share[:, None, None, None])
    return images, one[1] * share[:, None] + other[1] * (1 - share[:, None])


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(43)
    images, labels = digits()
    kinds = keras.utils.to_categorical(labels, 10).astype("float32")
    pairs = tf.data.Dataset.from_tensor_slices((images, kinds))
    one, other = (pairs.shuffle(96, seed=seed).batch(16) for seed in (1, 2))
    data = tf.data.Dataset.zip((one, other)).map(mix, num_parallel_calls=1)
    inner = [layers.Conv2D(6, 3, activation="relu"), layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *inner, layers.Dense(10, "softmax")])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        data, validation_data=pairs.batch(48), epochs=3, verbose=0, callbacks=backup()
    )
    return {"model": model, "history": history}
