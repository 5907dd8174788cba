"""NNCLR: a queue of features in a tf.Variable, two optimizers, augmentation; then fine-tuned."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, dense, descend, digits, pipeline, results


class NNCLR(keras.Model):
    def __init__(self, queue: int) -> None:
        super().__init__()
        random = [layers.RandomTranslation(0.1, 0.1), layers.RandomBrightness(0.3, (0, 1))]
        self.augmenter = keras.Sequential([keras.Input((8, 8, 1)), *random, layers.Flatten()])
        self.encoder, self.head = dense(16, 8, inputs=64), dense(8, 8, inputs=8)
        self.probe = dense(10, inputs=8)
        start = tf.math.l2_normalize(keras.random.normal((queue, 8)), axis=1)
        self.queue = tf.Variable(start, trainable=False)

    def compile(self, contrastive: Any, probe: Any, **named: Any) -> None:
        super().compile(**named)
        self.contrastive_optimizer, self.probe_optimizer = contrastive, probe
        self.contrastive = keras.metrics.Mean("c_loss")
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("p_acc")

    @property
    def metrics(self) -> Any:
        return [self.contrastive, self.accuracy]

    def neighbours(self, codes: Any) -> Any:
        near = tf.gather(self.queue, tf.argmax(codes @ tf.transpose(self.queue), 1))
        return codes + tf.stop_gradient(near - codes)

    def train_step(self, data: Any) -> Any:
        (unlabelled, _), (labelled, labels) = data
        images = tf.concat([unlabelled, labelled], 0)
        views = self.augmenter(images, training=True), self.augmenter(images, training=True)
        with tf.GradientTape() as tape:
            a, b = (tf.math.l2_normalize(self.head(self.encoder(v)), 1) for v in views)
            alike = self.neighbours(a) @ tf.transpose(b) / 0.1
            loss = keras.losses.sparse_categorical_crossentropy(
                tf.range(tf.shape(alike)[0]), alike, from_logits=True
            )
        trained = self.encoder.trainable_weights + self.head.trainable_weights
        descend(self.contrastive_optimizer, tape, loss, trained)
        self.queue.assign(tf.concat([a, self.queue[: -tf.shape(a)[0]]], 0))
        self.contrastive.update_state(loss)
        features = self.encoder(tf.reshape(labelled, (-1, 64)))
        with tf.GradientTape() as tape:
            logits = self.probe(features)
            loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        descend(self.probe_optimizer, tape, loss, self.probe.trainable_weights)
        self.accuracy.update_state(labels, logits)
        return results(self.metrics)


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(11)
    images, labels = digits(160)
    labelled = pipeline(images[:40], labels[:40], batch=8).repeat()
    unlabelled = pipeline(images[40:], labels[40:], batch=24, seed=5)
    model = NNCLR(queue=64)
    model.compile(keras.optimizers.Adam(), keras.optimizers.Adam(1e-2))
    data = tf.data.Dataset.zip((unlabelled, labelled))
    history = model.fit(data, epochs=2, verbose=0, callbacks=backup("contrastive"))
    tuned = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), model.encoder, model.probe])
    tuned.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = pipeline(images[:40], labels[:40], batch=8)
    second = tuned.fit(data, epochs=2, verbose=0, callbacks=backup("fine-tuning"))
    optimizers = {"c": model.contrastive_optimizer, "p": model.probe_optimizer}
    queue = {"queue": model.queue.numpy()}
    return (
        {"model": model, "tuned": tuned, "first": history, "history": second} | optimizers | queue
    )
