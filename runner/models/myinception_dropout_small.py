"""MyInception-Dropout-Small: the dropout network with its later half halved again.

With its linear Dense 1024 before the softmax it has 2,884,612 parameters at 100 classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.models import myinception_dropout

if TYPE_CHECKING:
    import keras


def build(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    blocks: tuple[int, int, int] = (4, 2, 1),
    width: float = 1.0,
    late_width: float = 0.5,
    channel_dropout: float = 0.3,
    head_dropout: float = 0.2,
    head_units: tuple[int, ...] = (1024,),
    head_activation: str | None = None,
) -> keras.Model:
    """Return the network: float images in [-1, 1] to class probabilities (float32).

    Args:
        input_shape: Height, width and channels of an image; at least 14 x 14.
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
