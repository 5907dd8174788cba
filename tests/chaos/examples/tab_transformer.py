"""TabTransformer: text columns looked up inside the model, contextual embeddings, weights."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.chaos.examples.common import Backup, Result, normals

COLUMNS = {"work": ["private", "state", "none"], "home": ["own", "rent"], "sex": ["f", "m", "d"]}


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(46)
    rng = np.random.default_rng(8)
    inputs = {name: keras.Input((1,), dtype="string", name=name) for name in COLUMNS}
    inputs["age"] = keras.Input((1,), name="age")
    embedded = []
    for name, words in COLUMNS.items():
        index = layers.StringLookup(vocabulary=words, num_oov_indices=1)(inputs[name])
        embedded.append(layers.Embedding(len(words) + 1, 6)(index))
    h = layers.Concatenate(axis=1)(embedded)
    for _ in range(2):
        attended = layers.MultiHeadAttention(2, 3, dropout=0.2)(h, h)
        h = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([attended, h]))
    h = layers.Concatenate()([layers.Flatten()(h), layers.LayerNormalization()(inputs["age"])])
    h = layers.Dropout(0.2)(layers.Dense(8, keras.activations.selu)(h))
    model = keras.Model(inputs, layers.Dense(1, "sigmoid")(h))
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=1e-3)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    x = {name: rng.choice(words, (96, 1)) for name, words in COLUMNS.items()}
    x["age"] = normals(96, 1)
    y, weights = x["work"] == "private", np.linspace(0.1, 2, 96, dtype="float32")
    data = tf.data.Dataset.from_tensor_slices((x, y.astype("float32"), weights))
    data = data.shuffle(96, seed=3).batch(16)  # another order in each epoch
    history = model.fit(data, epochs=3, verbose=0, callbacks=backup())
    return {"model": model, "history": history}
