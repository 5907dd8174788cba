"""Freed memory stays with the process: the next step takes it again.

A step frees hundreds of megabytes of activations and asks for as many a moment later. glibc gives
blocks beyond 32 MiB back to the kernel at once, and the end of its heap beyond 64 MiB; each page
then comes back through a fault, zeroed. That was 2 to 5 % of a CPU step of MyInception, more with
larger batches. The most that is held stays the same: what a step needs.
Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
"""

import ctypes
import os
import platform
from collections.abc import Mapping

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_BLOCK = 1 << 30  #: bytes; what is larger is rare, and costly to keep
_NEVER = (1 << 31) - 1  #: bytes at the heap's end; mallopt takes an int


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let glibc keep what is freed, in this process, from now on.

    Args:
        environment: where a user may have tuned glibc; that is left as it is.

    Returns:
        Whether it does. Other C libraries have no such setting.
    """
    tuned = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"
    if any(name in environment for name in tuned):
        return False
    if "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    set_both = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) and library.mallopt(
        _M_TRIM_THRESHOLD, _NEVER
    )
    return bool(set_both)
