"""Cores and GPUs; GPUs by the driver, without TensorFlow."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A card, as the driver describes it."""

    name: str
    memory_mib: int
    id: str = ""  #: what CUDA_VISIBLE_DEVICES calls it, whatever its place among the cards


def gpus(environment: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Return the NVIDIA cards that CUDA_VISIBLE_DEVICES leaves to this process, by the driver."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else {name.strip() for name in visible.split(",")} - {""}
    return tuple(
        Gpu(name=name, memory_mib=memory, id=uuid)
        for index, uuid, name, memory in _cards()
        if wanted is None or any(index == one or uuid.startswith(one) for one in wanted)
    )


def cards() -> tuple[str, ...]:
    """Return all NVIDIA cards by the driver: "NVIDIA L4, 23034 MiB"."""
    return tuple(f"{name}, {memory} MiB" for _, _, name, memory in _cards())


def _cards() -> list[tuple[str, str, str, int]]:
    """Index, UUID, name and MiB of each card."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    cards = []
    for line in done.stdout.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[3].isdecimal():
            cards.append((parts[0], parts[1], parts[2], int(parts[3])))
    return cards


def cpu_devices() -> int:
    """Return into how many devices `RUNNER_CPU_DEVICES` divides a CPU without GPUs: 1 by itself."""
    text = os.environ.get("RUNNER_CPU_DEVICES", "")
    return max(1, int(text)) if text.isdecimal() else 1


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
