"""A manifest describes one checkpoint completely; a reference finds it and proves it.

The manifest names every tensor with its hash and the pack it lies in, and holds the Python
state. Its key ends in the hash of its own bytes and the key stands in the job's log, so from
the log record down every byte is covered: log -> manifest -> header of the pack -> tensor.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner.checkpoint.dtypes import NAMES
from runner.checkpoint.packs import hash_bytes
from runner.errors import CheckpointError
from runner.store.base import is_key

FORMAT = 1
PYTHON = "python/"  #: tensors below this name are arrays of the Python state: not in the digest


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a job's log remembers of a checkpoint."""

    step: int  #: optimizer updates since the job began
    epoch: int  #: epochs done
    manifest: str  #: key of the manifest; ends in the hash of its bytes
    digest: str  #: over names and bytes of all model, optimizer, metric and seed tensors
    bytes: int  #: of the whole state

    def to_json(self) -> dict[str, Any]:
        """Return the reference as the log keeps it."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "manifest": self.manifest,
            "digest": self.digest,
            "bytes": self.bytes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Reference":
        """Return the reference; CheckpointError where the record holds none."""
        try:
            return cls(
                step=int(data["step"]),
                epoch=int(data["epoch"]),
                manifest=str(data["manifest"]),
                digest=str(data["digest"]),
                bytes=int(data["bytes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"a checkpoint reference without sense: {data!r}") from error


class Place(NamedTuple):
    """One tensor: what it is, and where its bytes lie. A manifest's JSON has it as a list."""

    dtype: str
    shape: tuple[int, ...]
    hash: str  #: BLAKE3 of its bytes
    pack: int  #: index in the manifest's packs
    name: str  #: its name in the pack: equal bytes are stored once, under the first name
    offset: int  #: bytes from the beginning of the pack
    length: int  #: bytes

    @property
    def content(self) -> tuple[str, tuple[int, ...], str]:
        """What makes two tensors the same."""
        return (self.dtype, self.shape, self.hash)


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack that a manifest uses."""

    key: str
    bytes: int
    header: str  #: BLAKE3 of its header


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where in the training a state stands."""

    epoch: int = 0  #: epochs done; the one in progress, counted from 0
    step: int = 0  #: steps done in this epoch
    global_step: int = 0  #: optimizer updates since the job began
    moment: str = "batch"  #: "start", "batch", "epoch" (its end) or "final" (after on_train_end)
    phase: int = 0  #: of the training's phases, each a fit of its own
    phase_epoch: int = 0  #: epochs done when the phase began
    stop: bool = False  #: a callback has ended the training

    def to_json(self) -> dict[str, Any]:
        """Return the position as a manifest keeps it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Position":
        """Return the position; CheckpointError where there is none."""
        try:
            position = cls(**data)
        except TypeError as error:
            raise CheckpointError(f"a position without sense: {data!r}") from error
        for name, value in vars(position).items():
            kind = type(getattr(Position, name))
            if type(value) is not kind or (kind is int and value < 0):
                raise CheckpointError(f"a position without sense: {name} is {value!r}")
        return position


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole checkpoint, except for its tensors' bytes."""

    tensors: Mapping[str, Place]
    packs: tuple[Pack, ...]
    position: Position
    python: Any = None  #: JSON, see `plain`
    history: Mapping[str, Any] = field(default_factory=dict)  #: metric -> one value an epoch
    numerics: Mapping[str, Any] = field(default_factory=dict)  #: what decides over bits
    nonce: str = ""  #: makes two manifests of equal states two objects

    @property
    def digest(self) -> str:
        """The state's fingerprint: equal for equal states, however they were stored."""
        lines = [
            f"{name}\n{place.dtype}\n{place.shape}\n{place.hash}\n"
            for name, place in sorted(self.tensors.items())
            if not name.startswith(PYTHON)
        ]
        return hash_bytes("".join(lines).encode())

    @property
    def state_bytes(self) -> int:
        """Bytes of the whole state, wherever they are stored."""
        return sum(place.length for place in self.tensors.values())

    def to_bytes(self) -> bytes:
        """Return the manifest's JSON."""
        data = {
            "format": FORMAT,
            "position": self.position.to_json(),
            "history": self.history,
            "numerics": self.numerics,
            "packs": [[pack.key, pack.bytes, pack.header] for pack in self.packs],
            "tensors": dict(self.tensors),
            "python": self.python,
            "nonce": self.nonce,
        }
        return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, key: str, data: bytes) -> "Manifest":
        """Return the manifest if the bytes are those that the key names.

        Raises:
            CheckpointError: they are not, or another version of runner wrote them.
        """
        if not key.endswith(f"-{name_of(data)}.json"):
            raise CheckpointError(f"{key} is damaged: its bytes are not those it is named by.")
        try:
            fields = json.loads(data)
            if fields["format"] != FORMAT:
                raise CheckpointError(
                    f"{key} has format {fields['format']}, and this runner knows {FORMAT}: "
                    "resume with the runner that wrote it, or a newer one."
                )
            return cls(
                tensors={name: _place(item) for name, item in fields["tensors"].items()},
                packs=tuple(_pack(item) for item in fields["packs"]),
                position=Position.from_json(fields["position"]),
                python=fields["python"],
                history=fields["history"],
                numerics=fields["numerics"],
                nonce=fields["nonce"],
            )
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
            RecursionError,
        ) as error:
            raise CheckpointError(f"{key} is not a manifest: {error!r}") from error

    def reference(self, key: str) -> Reference:
        """Return the reference to this manifest under a key."""
        return Reference(
            step=self.position.global_step,
            epoch=self.position.epoch,
            manifest=key,
            digest=self.digest,
            bytes=self.state_bytes,
        )


def _place(item: list[Any]) -> Place:
    dtype, shape, digest, pack, name, offset, length = item
    if dtype not in NAMES:
        raise ValueError(f"unknown dtype {dtype!r}")
    if not isinstance(digest, str) or not isinstance(name, str) or not isinstance(shape, list):
        raise TypeError(f"a tensor named {name!r} of the shape {shape!r} with the hash {digest!r}")
    numbers = (*shape, pack, offset, length)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{name} lies at {item!r}")
    return Place(dtype, tuple(shape), digest, pack, name, offset, length)


def _pack(item: list[Any]) -> Pack:
    key, size, header = item
    whole = isinstance(key, str) and type(size) is int and isinstance(header, str)
    if not whole or size < 0 or not is_key(key):
        raise ValueError(f"no pack: {item!r}")
    return Pack(key, size, header)


def name_of(data: bytes) -> str:
    """Return the part of a manifest's key that proves its bytes."""
    return hash_bytes(data)[:32]


def used_packs(manifests: Iterable[Manifest]) -> set[str]:
    """Return the keys of all packs that these manifests use."""
    return {pack.key for manifest in manifests for pack in manifest.packs}
