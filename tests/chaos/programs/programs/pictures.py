"""A network of keras.applications without its weights, on pictures read from a folder."""

import keras
from keras import layers

import runner


def program(*, path: str, side: int = 32) -> runner.Program:
    pictures = keras.utils.image_dataset_from_directory(
        path, image_size=(side, side), batch_size=8, shuffle=False
    )
    names = pictures.class_names
    shuffled = pictures.unbatch().shuffle(200, seed=1, reshuffle_each_iteration=False).batch(8)
    data, held_out = shuffled.skip(3), shuffled.take(3)
    whole = keras.applications.MobileNet((side, side, 3), 0.25, weights=None, include_top=False)
    trunk = keras.Model(whole.inputs, whole.get_layer("conv_pw_3_relu").output)
    inputs = keras.Input((side, side, 3))
    h = trunk(layers.Rescaling(1 / 127.5, -1)(layers.RandomFlip("horizontal")(inputs)))
    h = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(h))
    outputs = layers.Dense(len(names), "softmax")(h)
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return runner.Program(
        model=model,
        fit={"x": data.cache().prefetch(1), "validation_data": held_out},
        evaluate={"x": held_out},
        classes=names,
    )
