"""A manifest describes one checkpoint completely; a reference finds it and proves it.

The manifest names every tensor with its hash and the pack it lies in, and holds the Python
state. Its key ends in the hash of its own bytes and the key stands in the job's log, so from
the log record down every byte is covered: log -> manifest -> header of the pack -> tensor.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, convert

from runner.checkpoint.dtypes import NAMES
from runner.checkpoint.packs import hash_bytes
from runner.errors import CheckpointError
from runner.store.base import is_key

FORMAT = 1
PYTHON = "python/"  #: tensors below this name are arrays of the Python state: not in the digest

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a job's log remembers of a checkpoint."""

    step: Count  #: optimizer updates since the job began
    epoch: Count  #: epochs done
    manifest: str  #: key of the manifest; ends in the hash of its bytes
    digest: str  #: over names and bytes of all model, optimizer, metric and seed tensors
    bytes: Count  #: of the whole state

    def to_json(self) -> dict[str, Any]:
        """Return the reference as the log keeps it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Reference":
        """Return the reference; CheckpointError where the record holds none."""
        try:
            return convert(data, cls)
        except ValueError as error:
            raise CheckpointError(f"an invalid checkpoint reference: {data!r}: {error}") from error


class Place(NamedTuple):
    """One tensor: what it is, and where its bytes lie. A manifest's JSON has it as a list."""

    dtype: Annotated[str, Meta(pattern=rf"^({'|'.join(NAMES)})\Z")]
    shape: tuple[Count, ...]
    hash: str  #: BLAKE3 of its bytes
    pack: Count  #: index in the manifest's packs
    name: str  #: its name in the pack: equal bytes are stored once, under the first name
    offset: Count  #: bytes from the beginning of the pack
    length: Count  #: bytes

    @property
    def content(self) -> tuple[str, tuple[int, ...], str]:
        """What makes two tensors the same."""
        return (self.dtype, self.shape, self.hash)


class Pack(NamedTuple):
    """One pack that a manifest uses. A manifest's JSON has it as a list."""

    key: str
    bytes: Count
    header: str  #: BLAKE3 of its header


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where in the training a state stands."""

    epoch: Count = 0  #: epochs done; the one in progress, counted from 0
    step: Count = 0  #: steps done in this epoch
    global_step: Count = 0  #: optimizer updates since the job began
    moment: str = "batch"  #: "start", "batch", "epoch" (its end) or "final" (after on_train_end)
    phase: Count = 0  #: of the training's phases, each a fit of its own
    phase_epoch: Count = 0  #: epochs done when the phase began
    stop: bool = False  #: a callback has ended the training


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole checkpoint, except for its tensors' bytes. Its JSON has these fields, in order."""

    position: Position
    history: Mapping[str, Any] = field(default_factory=dict)  #: metric -> one value an epoch
    numerics: Mapping[str, Any] = field(default_factory=dict)  #: what decides over bits
    packs: tuple[Pack, ...]
    tensors: Mapping[str, Place]
    python: Any = None  #: JSON, see `plain`
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
        data = {"format": FORMAT, **vars(self), "position": vars(self.position)}
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
            manifest = convert(fields, cls)
            manifest._check(fields)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{key} is not a manifest: {error!r}") from error
        return manifest

    def _check(self, fields: Mapping[str, Any]) -> None:
        """Raise ValueError for what the types don't say, of the JSON that this was read from."""
        missing = vars(self).keys() - fields.keys()
        unknown = fields["position"].keys() - vars(self.position).keys()  # it would be ignored
        foreign = [pack.key for pack in self.packs if not is_key(pack.key)]
        lost = [name for name, place in self.tensors.items() if place.pack >= len(self.packs)]
        for problem, found in (
            ("fields are missing", missing),
            ("fields of a position are unknown", unknown),
            ("these are no keys of packs", foreign),
            ("these tensors lie in no pack", lost),
        ):
            if found:
                raise ValueError(f"{problem}: {', '.join(sorted(found)[:5])}")

    def reference(self, key: str) -> Reference:
        """Return the reference to this manifest under a key."""
        return Reference(
            step=self.position.global_step,
            epoch=self.position.epoch,
            manifest=key,
            digest=self.digest,
            bytes=self.state_bytes,
        )


def name_of(data: bytes) -> str:
    """Return the part of a manifest's key that proves its bytes."""
    return hash_bytes(data)[:32]


def used_packs(manifests: Iterable[Manifest]) -> set[str]:
    """Return the keys of all packs that these manifests use."""
    return {pack.key for manifest in manifests for pack in manifest.packs}
