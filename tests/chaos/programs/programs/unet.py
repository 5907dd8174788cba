"""U-Net: the class of each pixel; pictures and masks in memory, turned by the model itself."""

import keras

import runner
from tests.chaos.examples.common import digits
from tests.chaos.examples.unet import network


def program(*, filters: int = 2) -> runner.Program:
    images = digits(208)[0]
    masks = (images > 0.5).astype("uint8")
    model = network()
    overlap = keras.metrics.MeanIoU(2, sparse_y_pred=False, name="overlap")
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=[overlap])
    return runner.Program(
        model=model,
        fit={
            "x": runner.Batches(images[:160], masks[:160], batch_size=16, seed=1),
            "validation_data": (images[160:184], masks[160:184]),
        },
        evaluate={"x": images[184:], "y": masks[184:]},
    )
