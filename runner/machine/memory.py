"""How much memory a container may still take: its limit kills without a word.

A process that the kernel ends for memory gets SIGKILL, and its container is gone with it: the
job is lost like any other and resumed. That it was memory can only be written down before, so
an attempt is watched, and its log says how near the limit it came.
Sources: cgroup-v2.rst and cgroup-v1/memory.rst of the kernel.
"""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

#: of the limit; from here on, what the kernel could reclaim has mostly been reclaimed
TIGHT_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the processes of this container, or of this service on a bare machine, use together."""

    used: int  #: bytes that can't be given back, unlike the cache of files
    limit: int  #: bytes
    kills: int  #: processes that the limit has ended; this one lives

    @property
    def share(self) -> float:
        """Used, of the limit."""
        return self.used / self.limit

    def __str__(self) -> str:
        """As a person reads it."""
        killed = f"; the limit has ended {self.kills} processes beside this" if self.kills else ""
        return f"{self.used / 1e9:.2f} of at most {self.limit / 1e9:.2f} GB of memory{killed}"


def memory(root: Path = Path("/")) -> Memory | None:
    """Return what the limit leaves, or None where there is no limit.

    Args:
        root: holds `proc` and `sys`.
    """
    for folder, names in _places(root):
        limit = _number(folder / names["limit"])
        used = _number(folder / names["used"])
        # version 1 writes "no limit" as a number near 2**63
        if limit is None or used is None or not 0 < limit < 1 << 60:
            continue
        cache = _entry(folder / "memory.stat", names["cache"])
        kills = _entry(folder / names["kills"], _KILLS)
        return Memory(used=max(used - cache, 0), limit=limit, kills=kills)
    return None


def memory_bytes() -> int | None:
    """Return the machine's memory, or the container's limit where that is less."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limited = memory()
    return min(found, limited.limit) if limited else found


def oom_kills(root: Path = Path("/")) -> int | None:
    """Return how often the kernel killed for memory in our control group; None: not told."""
    for folder, names in _places(root):
        if f"{_KILLS} " in _text(folder / names["kills"]):
            return _entry(folder / names["kills"], _KILLS)
    return None


class MemoryWatch:
    """Calls `on_tight` from a thread of its own, once, when the limit comes near.

    >>> with MemoryWatch(lambda memory: print("tight:", memory)):
    ...     pass

    Args:
        on_tight: told what is used.
        look: what is used now, or None for no limit: then nothing is watched.
        interval_seconds: between looks; imports take up hundreds of megabytes a second.
    """

    def __init__(
        self,
        on_tight: Callable[[Memory], None],
        *,
        look: Callable[[], Memory | None] = memory,
        interval_seconds: float = 0.1,
    ) -> None:
        self._on_tight = on_tight
        self._look = look
        self._interval = interval_seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> Self:
        if self._look() is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            found = self._look()
            if found is not None and found.share >= TIGHT_SHARE:
                try:
                    self._on_tight(found)
                except Exception:
                    logger.warning("what was said of the memory got lost", exc_info=True)
                return


_KILLS = "oom_kill"
_V2 = {
    "limit": "memory.max",
    "used": "memory.current",
    "kills": "memory.events",
    "cache": "inactive_file",
}
_V1 = {
    "limit": "memory.limit_in_bytes",
    "used": "memory.usage_in_bytes",
    "kills": "memory.oom_control",
    "cache": "total_inactive_file",
}


def _places(root: Path) -> list[tuple[Path, dict[str, str]]]:
    """Where this process's limit may lie, the nearest first."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            # in a container of its own the path is "/", or one of the host's that is not mounted;
            # on a bare machine it is the service's
            mount = root / "sys/fs/cgroup"
            found += [(mount / path.lstrip("/"), _V2), (mount, _V2)]
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            # a container sees the host's path, and mounted is what lies beneath it
            found += [(mount / path.lstrip("/"), _V1), (mount, _V1)]
    return found


def _entry(path: Path, name: str) -> int:
    """One line's number in a file of `name number` lines; 0 if it isn't there."""
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
