"""Text classification from raw strings: TextVectorization in the pipeline, then in a model."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, sentences


def standardize(text: Any) -> Any:
    return tf.strings.regex_replace(tf.strings.lower(text), "[aeiou]", "")


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(44)
    texts = sentences()
    labels = np.array([text.count("a") % 2 for text in texts])
    raw = tf.data.Dataset.from_tensor_slices((texts, labels)).batch(16)
    vectorize = layers.TextVectorization(40, standardize, output_sequence_length=8)
    vectorize.adapt(raw.map(lambda x, y: x))
    data = raw.map(lambda x, y: (vectorize(x), y)).cache().prefetch(4)
    inner = [layers.Embedding(40, 6), layers.Dropout(0.5), layers.Conv1D(8, 3, activation="relu")]
    outer = [layers.GlobalMaxPooling1D(), layers.Dense(1, "sigmoid")]
    model = keras.Sequential([keras.Input((8,), dtype="int64"), *inner, *outer])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    first = model.fit(data, validation_data=data, epochs=2, verbose=0, callbacks=backup("tokens"))
    inputs = keras.Input((1,), dtype="string")
    whole = keras.Model(inputs, model(vectorize(inputs)))
    whole.compile("sgd", "binary_crossentropy")
    second = whole.fit(raw, epochs=2, verbose=0, callbacks=backup("strings"))
    return {"model": model, "first": first, "whole": whole, "second": second}
