"""Masked language model: masks drawn by NumPy beforehand, an own train_step, a text generator."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, descend, pipeline, sentences

LOSS = keras.losses.SparseCategoricalCrossentropy(reduction=None)
TRACKER = keras.metrics.Mean(name="loss")  # a global of the program, as in the original


class MaskedModel(keras.Model):
    def train_step(self, inputs: Any) -> Any:
        features, labels, weights = inputs
        with tf.GradientTape() as tape:
            loss = LOSS(labels, self(features, training=True), sample_weight=weights)
        descend(self.optimizer, tape, loss, self.trainable_variables)
        TRACKER.update_state(loss, sample_weight=weights)
        return {"loss": TRACKER.result()}

    @property
    def metrics(self) -> Any:
        return [TRACKER]


class Guesses(keras.callbacks.Callback):
    def __init__(self, sample: Any) -> None:
        super().__init__()
        self.sample = sample
        self.guessed: list[list[int]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.guessed.append(self.model.predict(self.sample, verbose=0)[0].argmax(-1).tolist())


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(16)
    vectorize = layers.TextVectorization(24, output_sequence_length=8)
    vectorize.adapt(sentences())
    tokens = vectorize(tf.constant(sentences())).numpy()
    masked = np.random.rand(*tokens.shape) < 0.3
    features = np.where(masked, 23, tokens)
    inputs = keras.Input((8,), dtype="int64")
    h = layers.Embedding(24, 12)(inputs)
    attended = layers.MultiHeadAttention(2, 6)(h, h, h)
    h = layers.LayerNormalization()(h + layers.Dropout(0.1)(attended))
    model = MaskedModel(inputs, layers.Dense(24, "softmax")(h))
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    guesses = Guesses(features[:1])
    data = pipeline(features, tokens, masked.astype("float32"))
    history = model.fit(data, epochs=3, verbose=0, callbacks=[guesses, *backup()])
    return {"model": model, "history": history, "guessed": guesses.guessed}
