"""Generators and open files: objects whose state is taken and put back by calls of their own."""

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from runner.checkpoint.plain import NotPlainError
from runner.training import files
from runner.training.objects import Kind

_BITS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937),
        *(np.random.Philox, np.random.SFC64),
    )
}


def look(value: Any, kind: Kind) -> Any:
    """Return an object's state as plain data."""
    return _LOOKS[kind](value)


def put_back(here: Any, kind: Kind, state: Any) -> None:
    """Give an object the state of another.

    Raises:
        NotPlainError: it can't have it.
    """
    _PUTS[kind](here, state)


def make(kind: Kind, state: Any) -> Any:
    """Return a new object for a state that is put into it next; None where nobody can make one."""
    if kind is Kind.RANDOM:
        return random.Random()
    if kind is Kind.RANDOM_STATE:
        return np.random.RandomState(0)
    if kind is Kind.MEMORY:
        return io.StringIO(newline="") if isinstance(state[0], str) else io.BytesIO()
    if kind is Kind.GENERATOR and state[0]["bit_generator"] in _BITS:
        return np.random.Generator(_BITS[state[0]["bit_generator"]](0))
    return None


def _spawned(bits: Any) -> int:
    return getattr(bits.seed_seq, "n_children_spawned", 0)


def _put_bits(here: Any, state: Any) -> None:
    bits, (values, spawned) = here.bit_generator, state
    if bits.state["bit_generator"] != values["bit_generator"]:
        raise NotPlainError(f"it was a {values['bit_generator']}")
    bits.state = values
    if spawned > _spawned(bits):
        bits.seed_seq.spawn(spawned - _spawned(bits))


def _put_in_memory(here: Any, state: Any) -> None:
    content, position = state
    here.seek(0)
    here.truncate()
    here.write(content)
    here.seek(position)


_LOOKS: dict[Kind, Callable[[Any], Any]] = {
    Kind.FILE: files.look,
    Kind.MEMORY: lambda file: (file.getvalue(), file.tell()),
    Kind.RANDOM: random.Random.getstate,
    Kind.RANDOM_STATE: lambda g: g.get_state(legacy=False),
    Kind.GENERATOR: lambda g: (g.bit_generator.state, _spawned(g.bit_generator)),
}
_PUTS: dict[Kind, Callable[[Any, Any], None]] = {
    Kind.FILE: lambda file, state: files.put_back(file, *state),
    Kind.MEMORY: _put_in_memory,
    Kind.RANDOM: random.Random.setstate,
    Kind.RANDOM_STATE: lambda g, state: g.set_state(state),
    Kind.GENERATOR: _put_bits,
}
