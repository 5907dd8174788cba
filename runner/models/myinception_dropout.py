"""MyInception-Dropout: whole feature maps are dropped after the stem and after every block.

No weight decay, Glorot initialisation and ReLU before BatchNormalization, as in the study's
dropout runs. With `head_units: [1024]` (the AU and MA runs) it has 6,554,244 parameters.
"""

from typing import TYPE_CHECKING

from runner.models import myinception
from runner.models._arguments import (
    Activation,
    Attention,
    Count,
    Decay,
    Factor,
    Initializer,
    Share,
    Stem,
    Units,
)

if TYPE_CHECKING:
    import keras


def build(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    blocks: tuple[Count, Count, Count] = (4, 2, 1),
    width: Factor = 1.0,
    late_width: Factor = 1.0,
    channel_dropout: Share = 0.3,
    head_dropout: Share = 0.2,
    head_units: tuple[Units, ...] = (),
    head_activation: Activation | None = "relu",
    l2: Decay = 0.0,
    initializer: Initializer = "glorot_uniform",
    relu_before_norm: bool = True,
    stem: Stem = "plain",
    factorised: bool = False,
    attention: Attention | None = None,
) -> "keras.Model":
    """Return the network: float images in [-1, 1] to class probabilities (float32).

    Args:
        input_shape: Height, width and channels of an image; at least 15 x 15.
        classes: Number of classes, the length of the softmax.
        blocks: How many Inception-A, -B and -C blocks; 0 leaves a kind out.
        width: Factor on every convolution's filters.
        late_width: Further factor on Inception-B, -C and Reduction-B.
        channel_dropout: Share of whole feature maps dropped after the stem and every block.
        head_dropout: Share of the pooled features dropped before the dense layers.
        head_units: Sizes of dense layers before the softmax.
        head_activation: Activation of those dense layers, null for linear ones.
        l2: Weight decay on the kernels of the convolutions; 0 for none.
        initializer: Keras name of the convolution kernels' initialiser.
        relu_before_norm: Conv-ReLU-BatchNorm instead of Conv-BatchNorm-ReLU.
        stem: "gentle" pads instead of cropping.
        factorised: Factorise the 3x3 convolutions of Inception-A and Reduction-A.
        attention: "channel" reweights the feature maps after every Inception block.
    """
    return myinception.build(**locals())
