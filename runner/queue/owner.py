"""Whether a job's owner is gone can be known for sure only on its own machine.

An owner is named so that no other process, container or boot of a machine can be taken for
it. `is_alive` says False only for a process that is certainly gone; from anywhere else, or in
any doubt, it says None, and the lease has to expire instead.
"""

import os
import socket
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, convert

_PROC = Path("/proc")
NODE_VARIABLE = "RUNNER_NODE"  #: what an engine calls this machine, for people


def this_process() -> dict[str, Any]:
    """Return the identity of this process, as it is written into a claim."""
    node = os.environ.get(NODE_VARIABLE, "")[:100]
    return {
        **_here(os.getpid()),
        "pid": os.getpid(),
        "started": _started(os.getpid()) or "",
        **({"node": node} if node else {}),
    }


@lru_cache(1)
def _here(pid: int) -> dict[str, str]:  # noqa: ARG001 - a fork may change its namespace
    return {
        "host": socket.gethostname(),
        "boot": _text(_PROC / "sys/kernel/random/boot_id"),
        "pid_namespace": _link(_PROC / "self/ns/pid"),
    }


class _Process(Struct):
    """What tells a process from all others."""

    host: Annotated[str, Meta(min_length=1)]
    boot: Annotated[str, Meta(min_length=1)]
    pid_namespace: Annotated[str, Meta(min_length=1)]
    pid: Annotated[int, Meta(gt=0)]
    started: Annotated[str, Meta(min_length=1)]


def is_alive(owner: Mapping[str, Any] | None) -> bool | None:
    """Whether the owner's process still exists; None where that can't be told from here."""
    try:
        process = convert(owner, _Process)
    except ValueError:
        return None
    here = _here(os.getpid())
    if any(getattr(process, name) != value for name, value in here.items()):
        return None
    if not _exists(process.pid):
        return False
    now = _started(process.pid)
    return None if now is None else now == process.started


def is_stopped(owner: Mapping[str, Any]) -> bool:
    """Whether the owner is a process of this machine that is stopped: by SIGSTOP, Ctrl-Z."""
    return bool(is_alive(owner)) and _status(owner["pid"])[:1] in (["T"], ["t"])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _started(pid: int) -> str | None:
    """Return the process's start in ticks since boot; "" for a zombie, None for a hidden one."""
    fields = _status(pid)
    if len(fields) < 20:
        return None
    return "" if fields[0] in "ZX" else fields[19]


def _status(pid: int) -> list[str]:
    """Return what the kernel says of a process, from its state on; nothing if it is hidden."""
    return _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
