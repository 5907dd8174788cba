"""MyInception-Dropout-Small: the dropout network with its later half halved again.

With its linear Dense 1024 before the softmax it has 2,884,612 parameters at 100 classes.
"""

from typing import TYPE_CHECKING

from runner.models import myinception_dropout
from runner.models._arguments import Activation, Count, Factor, Share, Units

if TYPE_CHECKING:
    import keras


def build(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    blocks: tuple[Count, Count, Count] = (4, 2, 1),
    width: Factor = 1.0,
    late_width: Factor = 0.5,
    channel_dropout: Share = 0.3,
    head_dropout: Share = 0.2,
    head_units: tuple[Units, ...] = (1024,),
    head_activation: Activation | None = None,
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
    """
    return myinception_dropout.build(**locals())
