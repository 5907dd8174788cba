"""What a worker reads because the record of a job names it: whoever writes the bucket wrote that.

Buckets and https are read unasked, and local files for the jobs of a local store. Other places
are read where this machine's user has named them: by submitting a job with that very path here,
or in RUNNER_DATA_FROM. Addresses that only this machine's cloud or link answers are never read.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runner.errors import StoreRefusedError
from runner.store.schemes import HONEST, LOCAL, split

DATA_VARIABLE = "RUNNER_DATA_FROM"  #: folders and URLs below which data may lie, by commas
#: what clouds tell and give their machines, beside the link-local addresses
_SERVICES = {"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"}
_SERVICE_NAMES = ("metadata", "metadata.google.internal", "instance-data")
_submitted: set[str] = set()  # by this process


def paths_of(spec: Mapping[str, Any], *, begun: bool = False) -> dict[str, str]:
    """Return the files and URLs that a spec names, by its fields.

    They are its data, and unless it is begun, its first weights.
    """
    fields = ["data.path", "program.path"]
    if not begun:
        fields += ["model.arguments.weights", "from.path"]
    found = {field: _at(spec, *field.split(".")) for field in fields}
    weights = found.get("model.arguments.weights")  # or the name of a set of weights
    if isinstance(weights, str) and "/" not in weights and not weights.endswith((".h5", ".keras")):
        del found["model.arguments.weights"]
    return {field: path for field, path in found.items() if isinstance(path, str)}


def _at(spec: object, *names: str) -> object:
    """Return what a spec that nobody checked has under these names, or None."""
    for name in names:
        spec = spec.get(name) if isinstance(spec, Mapping) else None
    return spec


def refusal(path: str, store_url: str) -> str:
    """Return why a worker of this store does not read a path: "it reads …"; "" if it may."""
    shown = f"it reads {path[:200]}"
    if "::" in path:
        return f"{shown}, and no worker opens chained URLs"
    scheme, rest = split(path)
    if scheme not in HONEST | LOCAL and _is_service(path):
        return f"{shown}, an address that only this machine's cloud or link answers"
    of_folder = split(store_url)[0] in LOCAL
    if scheme in HONEST | {"https"} or (of_folder and scheme in LOCAL):
        return ""
    place, fix = path, f"{scheme}://{rest.split('/')[0]}/"
    if scheme in LOCAL:
        place, fix = rest, rest.rpartition("/")[0]
    if path in _submitted_here() or _is_named(place):
        return ""
    return (
        f"{shown}, and was not submitted on this machine. If you trust whoever writes this store: "
        f"{DATA_VARIABLE}={fix}"
    )


def _is_named(place: str) -> bool:
    """Whether this machine's user has named the folder or server of a place."""
    named = (one.strip() for one in os.environ.get(DATA_VARIABLE, "").split(","))
    return any(_is_below(place, one) for one in named if one)


def remember(spec: Mapping[str, Any], store_url: str) -> None:
    """Let this user's workers on this machine read what the spec names: it is submitted here."""
    named = paths_of(spec).values()
    new = {path for path in named if refusal(path, store_url) and "\n" not in path}
    if not new:
        return
    _submitted.update(new)
    with suppress(OSError, RuntimeError, ValueError):  # no home, a full disk: this process knows
        file = _state_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(f"{path}\n" for path in sorted(new))


def check_address(address: str) -> None:
    """Raise StoreRefusedError for an IP address that gives a machine's own secrets away."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_link_local or str(found) in _SERVICES:
        raise StoreRefusedError(f"{address} is an address of this machine's cloud or link.")


def _is_service(url: str) -> bool:
    """Whether the host of a URL says so by itself; its name may still lead to such an address."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return True
    with suppress(OSError):
        host = socket.inet_ntoa(socket.inet_aton(host))  # also one number, octal and hexadecimal
    try:
        check_address(host)
    except StoreRefusedError:
        return True
    except ValueError:
        return host in _SERVICE_NAMES
    return False


def _is_below(place: str, allowed: str) -> bool:
    if "://" in allowed or "://" in place:
        return place.startswith(allowed.rstrip("/") + "/")
    path = Path(place).expanduser()
    return ".." not in path.parts and path.is_relative_to(Path(allowed).expanduser())


def _submitted_here() -> set[str]:
    try:
        return _submitted.union(_state_file().read_text(encoding="utf-8").split("\n"))
    except (OSError, RuntimeError, ValueError):
        return _submitted


def _state_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "runner" / "submitted-paths"
