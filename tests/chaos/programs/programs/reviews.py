"""Text classification: TextVectorization in the pipeline, an embedding and an LSTM."""

import keras
import numpy as np
from keras import layers

import runner
from tests.chaos.examples.common import pipeline, sentences


def program(*, words: int = 40, units: int = 8) -> runner.Program:
    texts = sentences(208)
    liked = np.array([text.count("likes") > text.count("never") for text in texts], "float32")
    vectorize = layers.TextVectorization(words, output_sequence_length=8)
    vectorize.adapt(texts[:160])

    def some(part: slice) -> object:
        return pipeline(texts[part], liked[part]).map(lambda x, y: (vectorize(x), y)).prefetch(2)

    inner = [layers.Embedding(words, units), layers.LSTM(units, dropout=0.2), layers.Dropout(0.5)]
    inputs = keras.Input((8,), dtype="int64")
    model = keras.Sequential([inputs, *inner, layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    data, held_out, test = some(slice(160)), some(slice(160, 184)), some(slice(184, None))
    return runner.Program(
        model=model, fit={"x": data, "validation_data": held_out}, evaluate={"x": test}
    )
