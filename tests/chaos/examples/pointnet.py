"""PointNet: learned transforms kept orthogonal by a regularizer, points jittered by a layer."""

from typing import Any

import keras
from keras import layers, ops

from runner import Batches
from tests.chaos.examples.common import Backup, Result, integers, normals


class Orthogonal(keras.regularizers.Regularizer):
    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, x: Any) -> Any:
        x = ops.reshape(x, (-1, self.width, self.width))
        product = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
        return ops.sum(0.001 * ops.square(product - ops.eye(self.width)))


def points(x: Any, width: int) -> Any:
    x = layers.BatchNormalization(momentum=0.0)(layers.Conv1D(width, 1)(x))
    return layers.Activation("relu")(x)


def transformed(inputs: Any, width: int) -> Any:
    h = layers.GlobalMaxPooling1D()(points(inputs, 8))
    bias = keras.initializers.Constant(keras.ops.convert_to_numpy(ops.eye(width)).flatten())
    h = layers.Dense(
        width * width,
        kernel_initializer="zeros",
        bias_initializer=bias,
        activity_regularizer=Orthogonal(width),
    )(h)
    return layers.Dot(axes=(2, 1))([inputs, layers.Reshape((width, width))(h)])


def train(backup: Backup) -> Result:
    keras.utils.set_random_seed(39)
    inputs = keras.Input((20, 3))
    h = transformed(layers.GaussianNoise(0.01)(inputs), 3)
    h = layers.GlobalMaxPooling1D()(transformed(points(h, 6), 6))
    outputs = layers.Dense(4, "softmax")(layers.Dropout(0.3)(h))
    model = keras.Model(inputs, outputs, name="pointnet")
    metrics = ["sparse_categorical_accuracy"]
    model.compile("adamax", "sparse_categorical_crossentropy", metrics=metrics)
    x, y = normals(96, 20, 3), integers(4, 96)
    data = Batches(x, y, batch_size=16, seed=7)
    history = model.fit(
        data, epochs=3, validation_data=(x[:20], y[:20]), verbose=0, callbacks=backup()
    )
    return {"model": model, "history": history}
