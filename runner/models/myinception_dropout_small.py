"""MyInception-Dropout-Small: the dropout network with its later half halved again.

With its linear Dense 1024 before the softmax it has 2,884,612 parameters at 100 classes.
"""

from runner.models import myinception_dropout
from runner.models._arguments import variant

build = variant(
    myinception_dropout.build,
    fixed=("l2", "initializer", "relu_before_norm", "stem", "factorised", "attention"),
    late_width=0.5,
    head_units=(1024,),
    head_activation=None,
)
