"""U-Net segmentation: pictures and masks out of a PyDataset with a shuffle of its own."""

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.chaos.examples.common import Backup, Result, digits


class Masks(keras.utils.PyDataset):
    def __init__(self, images: Any, batch: int) -> None:
        super().__init__()
        self.images, self.batch = images, batch
        self.order = np.arange(len(images))

    def __len__(self) -> int:
        return len(self.images) // self.batch

    def __getitem__(self, index: int) -> Any:
        images = self.images[self.order[index * self.batch : (index + 1) * self.batch]]
        return images, (images > 0.5).astype("uint8")

    def on_epoch_end(self) -> None:
        self.order = np.roll(self.order, 5)


def network() -> Any:
    inputs = keras.Input((8, 8, 1))
    same = {"padding": "same", "activation": "relu"}
    top = layers.BatchNormalization()(layers.SeparableConv2D(6, 3, **same)(inputs))
    low = layers.Conv2D(8, 3, **same)(layers.MaxPooling2D()(top))
    up = layers.Conv2DTranspose(6, 3, strides=2, **same)(layers.Dropout(0.2)(low))
    return keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(layers.add([top, up])))


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(20)
    images = digits(128)[0]
    model = network()
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    best = keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True)
    data, held_out = Masks(images[:96], 16), Masks(images[96:], 16)
    history = model.fit(
        data,
        epochs=3,
        shuffle=False,
        validation_data=held_out,
        verbose=0,
        callbacks=[best, *backup()],
    )
    return {"model": model, "history": history}
