"""What this machine has for a training: asked of Keras's backend and of the driver."""

import os
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Accelerators:
    """GPUs, as two parties see them."""

    usable: tuple[str, ...]  #: by TensorFlow or JAX
    installed: tuple[str, ...]  #: "NVIDIA L4, 23034 MiB", by the driver


def accelerators() -> Accelerators:
    """Return the GPUs. Imports Keras with its backend."""
    from runner.training.quiet import import_keras

    import_keras()
    from runner.training import backends

    return Accelerators(
        usable=backends.current().accelerators(),
        installed=_installed(),
    )


def _installed() -> tuple[str, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Return the machine's memory, or the container's limit where that is less."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:  # noqa: PTH123
                limit = file.read().strip()
        except OSError:
            continue
        if limit.isdecimal():
            found = min(found, int(limit))
    return found
