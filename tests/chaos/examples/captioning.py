"""Image captioning: several captions a picture in one step, one update after all their losses."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, digits, integers, pipeline, results


class Captioner(keras.Model):
    def __init__(self, words: int, width: int = 8) -> None:
        super().__init__()
        self.seen = layers.Dense(width, "relu")
        self.embedding = layers.Embedding(words, width, mask_zero=True)
        self.decoder = layers.GRU(width, return_sequences=True)
        self.out = layers.Dense(words, "softmax")
        self.dropout = layers.Dropout(0.2)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.acc_tracker = keras.metrics.Mean(name="acc")

    @property
    def metrics(self) -> Any:
        return [self.loss_tracker, self.acc_tracker]

    def losses_of(self, picture: Any, caption: Any, training: bool) -> Any:
        h = self.dropout(self.embedding(caption[:, :-1]), training=training)
        predicted = self.out(self.decoder(h, initial_state=picture, training=training))
        truth = caption[:, 1:]
        mask = tf.cast(truth != 0, tf.float32)
        right = tf.cast(truth == tf.argmax(predicted, 2, tf.int32), tf.float32)
        loss = tf.reduce_sum(self.loss(truth, predicted) * mask) / tf.reduce_sum(mask)
        return loss, tf.reduce_sum(right * mask) / tf.reduce_sum(mask)

    def train_step(self, data: Any) -> Any:
        pictures, captions = data
        total, right = 0.0, 0.0
        with tf.GradientTape() as tape:
            seen = self.seen(layers.Flatten()(pictures))
            for number in range(2):
                loss, accuracy = self.losses_of(seen, captions[:, number], training=True)
                total, right = total + loss, right + accuracy / 2
        weights = self.seen.trainable_variables + self.embedding.trainable_variables
        weights += self.decoder.trainable_variables + self.out.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(total, weights), weights, strict=True))
        self.loss_tracker.update_state(total)
        self.acc_tracker.update_state(right)
        return results(self.metrics)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(17)
    model = Captioner(words=12)
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=None)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    captions = integers(12, 96, 2, 5)
    captions[:, :, 0] = 1
    data = pipeline(digits()[0], captions, seed=1)
    stop = keras.callbacks.EarlyStopping("loss", patience=1)
    history = model.fit(data, epochs=3, verbose=0, callbacks=[stop, *backup()])
    return {"model": model, "history": history}
