"""What a notice is, and what gives one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: where Linux shows what the firmware says of the machine; readable without privileges
DMI = Path("/sys/class/dmi/id")


@dataclass(frozen=True, kw_only=True)
class Notice:
    """The machine's word that it is about to go."""

    text: str  #: who says what, for people
    seconds_left: float | None  #: until it may be gone; None where nobody knows
    certain: bool = True  #: else only a risk: something to save for, nothing to stop for


class Source(Protocol):
    """Gives notices. Each is asked in a thread of its own, so it may take its time."""

    @property
    def name(self) -> str:
        """Whose notices these are, for people."""

    def is_here(self) -> bool:
        """Whether this machine gives such notices. Never raises."""

    def look(self) -> Notice | None:
        """What is announced now, if anything is.

        Raises:
            OSError: nothing could be learnt.
        """


def firmware(name: str, folder: Path = DMI) -> str:
    """What the firmware says of the machine under this name; "" where it says nothing."""
    try:
        return (folder / name).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def may_be(environ: Mapping[str, str], folder: Path, *, override: str, known: bool) -> bool:
    """Whether it is worth asking over the network if this is a certain kind of machine.

    Args:
        environ: the environment.
        folder: of the firmware's words.
        override: environment variable that names the service's address.
        known: whether the firmware says that it is one.
    """
    unknown = not firmware("sys_vendor", folder) and not firmware("product_name", folder)
    return bool(environ.get(override)) or known or unknown
