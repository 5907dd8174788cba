"""Sequence to sequence with attention: masks, positions, and a schedule class of one's own."""

from typing import Any

import keras
from keras import layers, ops

from tests.chaos.examples.common import Backup, Result, integers, pipeline


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, width: int, warm: int) -> None:
        self.width, self.warm = width, warm

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32") + 1.0
        return self.width**-0.5 * ops.minimum(step**-0.5, step * self.warm**-1.5)


class Positions(layers.Layer):
    def __init__(self, length: int, words: int, width: int) -> None:
        super().__init__()
        self.tokens = layers.Embedding(words, width)
        self.places = layers.Embedding(length, width)

    def call(self, inputs: Any) -> Any:
        return self.tokens(inputs) + self.places(ops.arange(inputs.shape[-1]))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return ops.not_equal(inputs, 0)


def block(h: Any, other: Any, causal: bool) -> Any:
    attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(h, other, use_causal_mask=causal)
    h = layers.LayerNormalization()(h + attended)
    return layers.LayerNormalization()(h + layers.Dense(8, "relu")(h))


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(30)
    source = keras.Input((6,), dtype="int32", name="source")
    target = keras.Input((5,), dtype="int32", name="target")
    encoded = Positions(6, 16, 8)(source)
    encoded = block(encoded, encoded, causal=False)
    decoded = Positions(5, 16, 8)(target)
    decoded = block(block(decoded, decoded, causal=True), encoded, causal=False)
    outputs = layers.Dense(16)(layers.Dropout(0.2)(decoded))
    model = keras.Model({"source": source, "target": target}, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    adam = keras.optimizers.Adam(Schedule(8, 6), beta_2=0.98, epsilon=1e-9)
    model.compile(adam, loss, weighted_metrics=["accuracy"])
    there, back = integers(16, 96, 6), integers(16, 96, 6, seed=1)
    data = pipeline({"source": there, "target": back[:, :-1]}, back[:, 1:], seed=2).cache()
    history = model.fit(data, epochs=3, validation_data=data.take(2), callbacks=backup(), verbose=0)
    return {"model": model, "history": history}
