"""Generators and open files: objects whose state is read and set by calls of their own."""

import io
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from runner.checkpoint.plain import NotPlainError
from runner.training.state import files
from runner.training.state.kinds import Kind


class Calls(NamedTuple):
    """What reads and sets the state of a kind of object."""

    look: Callable[[Any], Any]  #: returns the state as plain data
    put_back: Callable[[Any, Any], None]  #: sets it; raises NotPlainError where it can't be had
    make: Callable[[Any], Any]  #: returns an object that can have a state; None if nobody can


_BITS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)


def _spawned(bits: Any) -> int:
    return getattr(bits.seed_seq, "n_children_spawned", 0)


def _put_bits(here: Any, state: Any) -> None:
    bits, (values, spawned) = here.bit_generator, state
    if bits.state["bit_generator"] != values["bit_generator"]:
        raise NotPlainError(f"it was a {values['bit_generator']}")
    bits.state = values
    if spawned > _spawned(bits):
        bits.seed_seq.spawn(spawned - _spawned(bits))


def _make_bits(state: Any) -> Any:
    found = [bits for bits in _BITS if bits.__name__ == state[0]["bit_generator"]]
    return np.random.Generator(found[0](0)) if found else None


def _put_in_memory(here: Any, state: Any) -> None:
    content, position = state
    here.seek(0)
    here.truncate()
    here.write(content)
    here.seek(position)


CALLS: dict[Kind, Calls] = {
    Kind.FILE: Calls(files.look, lambda file, state: files.put_back(file, *state), lambda _: None),
    Kind.MEMORY: Calls(
        lambda file: (file.getvalue(), file.tell()),
        _put_in_memory,
        lambda state: io.StringIO(newline="") if isinstance(state[0], str) else io.BytesIO(),
    ),
    Kind.RANDOM: Calls(random.Random.getstate, random.Random.setstate, lambda _: random.Random()),
    Kind.RANDOM_STATE: Calls(
        lambda g: g.get_state(legacy=False),
        lambda g, state: g.set_state(state),
        lambda _: np.random.RandomState(0),
    ),
    Kind.GENERATOR: Calls(
        lambda g: (g.bit_generator.state, _spawned(g.bit_generator)), _put_bits, _make_bits
    ),
}
