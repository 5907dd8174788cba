"""Transfer learning: a frozen trunk with a new head, then all of it at a lower rate."""

import keras
from keras import layers

from tests.chaos.examples.common import Backup, Result, digits, pipeline


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(42)
    images, labels = digits()
    inner = [layers.Conv2D(6, 3, activation="relu"), layers.BatchNormalization(), layers.ReLU()]
    trunk = keras.Sequential([keras.Input((8, 8, 1)), *inner], name="trunk")
    trunk.trainable = False
    inputs = keras.Input((8, 8, 1))
    h = layers.GlobalAveragePooling2D()(trunk(layers.RandomRotation(0.1)(inputs), training=False))
    model = keras.Model(inputs, layers.Dense(10)(layers.Dropout(0.2)(h)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = [keras.metrics.SparseCategoricalAccuracy()]
    model.compile(keras.optimizers.Adam(), loss, metrics=metrics)
    data = pipeline(images, labels).cache().prefetch(2)
    first = model.fit(data, epochs=2, validation_data=data, verbose=0, callbacks=backup("head"))
    trunk.trainable = True
    model.compile(keras.optimizers.Adam(1e-4), loss, metrics=metrics)
    second = model.fit(data, epochs=2, validation_data=data, verbose=0, callbacks=backup("all"))
    return {"model": model, "first": first, "second": second}
