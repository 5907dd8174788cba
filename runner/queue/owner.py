"""Whether a job's owner is gone can be known for sure only on its own machine.

An owner is named so that no other process, container or boot of a machine can be taken for
it. `is_alive` says False only for a process that is certainly gone; from anywhere else, or in
any doubt, it says None, and the lease has to lapse instead.
"""

import os
import socket
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

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


def is_alive(owner: Mapping[str, Any] | None) -> bool | None:
    """Whether the owner's process still exists; None where that can't be told from here."""
    if not owner:
        return None
    here = _here(os.getpid())
    where = ("host", "boot", "pid_namespace")
    if not all(here[name] and here[name] == owner.get(name) for name in where):
        return None
    pid, started = owner.get("pid"), owner.get("started")
    if type(pid) is not int or pid <= 0 or not isinstance(started, str) or not started:
        return None
    if not _exists(pid):
        return False
    now = _started(pid)
    return None if now is None else now == started


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
    fields = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return "" if fields[0] in "ZX" else fields[19]


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
