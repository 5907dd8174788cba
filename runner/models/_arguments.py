"""What a network's arguments may be, so that a spec with an impossible one is refused at once.

The bounds are plain annotations; the spec's check reads them from the signature of `build`.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Lt(1)]  #: of values dropped
Factor = Annotated[float, Gt(0), Le(64)]  #: on the filters of a convolution
Decay = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(0), Le(256)]
Units = Annotated[int, Ge(1), Le(1 << 20)]
Size = Annotated[int, Ge(1), Le(4096)]  #: in pixels

Activation = Literal["relu", "gelu", "silu", "elu", "tanh"]
Initializer = Literal[
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "lecun_uniform",
]
Stem = Literal["plain", "gentle"]
Attention = Literal["channel"]


def variant(
    build: Callable[..., Any], *, fixed: Collection[str] = (), **defaults: Any
) -> Callable[..., Any]:
    """Return a network's `build` with other defaults.

    Args:
        build: Of the network.
        fixed: Arguments that a spec can't set.
        defaults: Arguments whose defaults differ from those of the network.
    """
    made = functools.partial(build, **defaults)
    whole = inspect.signature(made)
    free = [one for name, one in whole.parameters.items() if name not in fixed]
    made.__signature__ = whole.replace(parameters=free)  # type: ignore[attr-defined]
    return made
