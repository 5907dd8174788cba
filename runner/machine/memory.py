"""How much memory a container may still take: its limit kills without a word.

A process that the kernel ends for memory gets SIGKILL, and its container is gone with it: the
job is lost like any other and resumed. That it was memory can only be written down before, so
an attempt is watched, and its log says how near the limit it came.
Sources: cgroup-v2.rst and cgroup-v1/memory.rst of the kernel.
"""

import ctypes
import logging
import math
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

logger = logging.getLogger(__name__)

#: of the limit; from here on, what the kernel could reclaim has mostly been reclaimed
TIGHT_SHARE = 0.9
_FILLED_PER_SECOND = 5e9  #: bytes that a program may take, about
_SHORTEST_SECONDS = 0.01

BASE_BYTES = 500_000_000  #: of Python, Keras and its backend with a small network, at least

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 << 20  #: of a block that goes back to the kernel when it is freed


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


class _Files(NamedTuple):
    """Where a version of control groups has what."""

    limit: str
    used: str
    kills: str
    cache: str  #: a line of memory.stat


_V2 = _Files("memory.max", "memory.current", "memory.events", "inactive_file")
_V1 = _Files(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.oom_control",
    "total_inactive_file",
)


def memory(root: Path = Path("/")) -> Memory | None:
    """Return what the limit leaves, or None where there is no limit.

    Args:
        root: holds `proc` and `sys`.
    """
    for folder, files in _groups(root):
        limit, used = (_numbers(folder / name).get("") for name in (files.limit, files.used))
        # version 1 writes "no limit" as a number near 2**63
        if limit is None or used is None or not 0 < limit < 1 << 60:
            continue
        cache = _numbers(folder / "memory.stat").get(files.cache, 0)
        kills = _numbers(folder / files.kills).get("oom_kill", 0)
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
    """Return how often the kernel killed for memory in our control group; None: not known."""
    found = (_numbers(folder / files.kills).get("oom_kill") for folder, files in _groups(root))
    return next((kills for kills in found if kills is not None), None)


def _groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield the folders of control groups that may limit this process, the nearest first.

    In a container of its own the path is "/", or one of the host's that is not mounted, and what is
    mounted is what lies beneath it. On a bare machine it is the service's.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, files = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            mount, files = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        yield mount / path.lstrip("/"), files
        yield mount, files


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file, by the words before them; nothing if it isn't there."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.rpartition(" ") for line in lines)
    return {name: int(number) for name, _, number in pairs if number.isdecimal()}


def give_back_freed(environment: Mapping[str, str] = os.environ) -> bool:
    """Let glibc give large blocks back to the kernel when they are freed, from now on.

    Left alone it learns to keep blocks of up to 32 MB, in each thread's heap: a training on
    batches of 28 MB held 930 MB where 590 were in use. Its steps took as long as before.
    Source: mallopt(3), M_MMAP_THRESHOLD.

    Args:
        environment: where a user may have tuned glibc; that is left as it is.

    Returns:
        Whether it does. Other C libraries have no such setting.
    """
    tuned = environment.get("GLIBC_TUNABLES", "") + " ".join(environment)
    if "glibc.malloc" in tuned or "MALLOC_" in tuned or platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))


class MemoryWatch:
    """Calls `on_tight` from a thread of its own, once, when the limit comes near.

    >>> with MemoryWatch(lambda memory: print("tight:", memory)):
    ...     pass

    Args:
        on_tight: told what is used.
        look: what is used now, or None for no limit: then nothing is watched.
        interval_seconds: between looks; less where there is no room for so long.
    """

    def __init__(
        self,
        on_tight: Callable[[Memory], None],
        *,
        look: Callable[[], Memory | None] = memory,
        interval_seconds: float = 1.0,
    ) -> None:
        self._on_tight = on_tight
        self._look = look
        self._interval = interval_seconds
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        if self._look() is not None:
            threading.Thread(target=self._run, name="memory", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()

    def _run(self) -> None:
        wait = 0.0
        while not self._closing.wait(wait):
            found = self._look()
            room = TIGHT_SHARE * found.limit - found.used if found else math.inf
            wait = min(self._interval, max(_SHORTEST_SECONDS, room / _FILLED_PER_SECOND))
            if found and room <= 0:
                try:
                    self._on_tight(found)
                except Exception:
                    logger.warning("that memory is short could not be reported", exc_info=True)
                return
