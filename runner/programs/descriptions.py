"""Tell by a few words which of scikit-learn's data sets is being described: a text classifier."""

import re
from collections import Counter
from typing import Annotated

import keras
import numpy as np
from annotated_types import Ge
from sklearn import datasets

import runner

NAMES = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")


def program(
    *,
    words: Annotated[int, Ge(1)] = 16,
    units: Annotated[int, Ge(1)] = 32,
    vocabulary: Annotated[int, Ge(2)] = 500,
    seed: int = 0,
) -> runner.Program:
    """An LSTM that reads so many words in a row.

    Args:
        words: of an example.
        units: of the LSTM, and of the vector of a word.
        vocabulary: how many of the most frequent words it knows.
        seed: of the order of the examples.
    """
    texts = [getattr(datasets, f"load_{name}")().DESCR.lower() for name in NAMES]
    split = [re.findall(r"[a-z]+", text) for text in texts]
    known = Counter(word for text in split for word in text).most_common(vocabulary - 1)
    number = {word: index for index, (word, _) in enumerate(known, start=1)}
    x, y = [], []
    for label, text in enumerate(split):
        ids = [number.get(word, 0) for word in text]
        starts = range(0, len(ids) - words + 1, words)
        x += [ids[start : start + words] for start in starts]
        y += [label] * len(starts)
    order = np.random.default_rng(seed).permutation(len(x))
    inputs, labels = np.array(x, np.int32)[order], np.array(y, np.int32)[order]
    test = len(x) // 5
    model = keras.Sequential(
        [
            keras.Input((words,), dtype="int32"),
            keras.layers.Embedding(vocabulary, units),
            keras.layers.SpatialDropout1D(0.2, seed=seed),
            keras.layers.LSTM(units),
            keras.layers.Dense(len(NAMES), activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    train = runner.Batches(inputs[2 * test :], labels[2 * test :], batch_size=16, seed=seed)
    return runner.Program(
        model=model,
        fit={"x": train, "validation_data": (inputs[test : 2 * test], labels[test : 2 * test])},
        evaluate={"x": inputs[:test], "y": labels[:test]},
        classes=NAMES,
    )
