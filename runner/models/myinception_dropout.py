"""MyInception-Dropout: whole feature maps are dropped after the stem and after every block.

No weight decay, Glorot initialisation and ReLU before BatchNormalization, as in the study's
dropout runs. With `head_units: [1024]` (the AU and MA runs) it has 6,554,244 parameters.
"""

from runner.models import myinception
from runner.models._arguments import variant

build = variant(
    myinception.build,
    channel_dropout=0.3,
    l2=0.0,
    initializer="glorot_uniform",
    relu_before_norm=True,
)
