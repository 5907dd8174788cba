"""Learning to resize: a small network before the network, with label smoothing."""

import keras
from keras import layers

from runner import Batches
from tests.chaos.examples.common import Backup, Result, digits


def resizer() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    plain = layers.Resizing(5, 5)(inputs)
    h = layers.LeakyReLU(negative_slope=0.2)(layers.Conv2D(4, 3, padding="same")(inputs))
    h = layers.BatchNormalization()(layers.Conv2D(1, 1)(layers.Resizing(5, 5)(h)))
    return keras.Model(inputs, layers.Add()([plain, h]), name="resizer")


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(21)
    images, labels = digits()
    classifier = [layers.Conv2D(6, 3, activation="relu"), layers.Flatten(), layers.Dense(10)]
    augmented = layers.RandomFlip("horizontal", seed=3)
    model = keras.Sequential([keras.Input((8, 8, 1)), augmented, resizer(), *classifier])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1, from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    y = keras.utils.to_categorical(labels, 10)
    data = Batches(images, y, batch_size=16, seed=2)
    history = model.fit(
        data, epochs=3, validation_data=(images[:30], y[:30]), verbose=0, callbacks=backup()
    )
    return {"model": model, "history": history}
