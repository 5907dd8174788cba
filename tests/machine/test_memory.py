"""A death by the memory limit leaves a word, since the attempt said before how near it was."""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from runner.machine.memory import Memory, MemoryWatch, memory, oom_kills
from tests.harness import QUICKSTART, Runner, sets

V2 = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": "1000\n",
    "sys/fs/cgroup/memory.current": "950\n",
    "sys/fs/cgroup/memory.stat": "anon 700\ninactive_file 200\n",
    "sys/fs/cgroup/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
}
V2_SERVICE = {
    "proc/self/cgroup": "0::/system.slice/runner.service\n",
    "sys/fs/cgroup/system.slice/runner.service/memory.max": "1000\n",
    "sys/fs/cgroup/system.slice/runner.service/memory.current": "750\n",
}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/docker/ab\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "800\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
    "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
}


def machine(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (V2, Memory(used=750, limit=1000, kills=2)),
        (V2_SERVICE, Memory(used=750, limit=1000, kills=0)),
        (V1, Memory(used=750, limit=1000, kills=1)),
        ({**V2, "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_the_limit_is_found(files: dict[str, str], expected: Memory | None, tmp_path: Path) -> None:
    """In containers and services, under both versions of cgroups; without a limit, None."""
    assert memory(machine(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (V2, 2),
        ({**V2, "sys/fs/cgroup/memory.max": "max\n"}, 2),  # without a limit of its own
        ({**V2, "proc/self/cgroup": "0::/../host/path\n"}, 2),
        (V1, 1),
        (V2_SERVICE, None),
        ({}, None),
    ],
)
def test_what_the_kernel_killed_is_counted(
    files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    assert oom_kills(machine(tmp_path, files)) == expected


def test_tight_memory_is_told_once_and_in_time() -> None:
    looks = iter([100, 500, 890, 900, 950, 990])
    told: list[Memory] = []
    called = threading.Event()

    def on_tight(found: Memory) -> None:
        told.append(found)
        called.set()

    def look() -> Memory:
        return Memory(used=next(looks), limit=1000, kills=0)

    with MemoryWatch(on_tight, look=look, interval_seconds=0.001):
        assert called.wait(30)
    assert [found.used for found in told] == [900]


def test_the_less_room_there_is_the_sooner_is_the_next_look() -> None:
    """A step of a large network takes what a small container has left within a second."""
    looks, called = iter([500, 560, 620, 640]), threading.Event()

    def look() -> Memory:
        return Memory(used=next(looks) * 10**6, limit=700 * 10**6, kills=0)

    with MemoryWatch(lambda _: called.set(), look=look, interval_seconds=3600):
        assert called.wait(30)


def test_a_machine_without_a_limit_is_not_watched() -> None:
    before = threading.active_count()
    with MemoryWatch(lambda _: None, look=lambda: None):
        assert threading.active_count() == before


#: batches come and go, and something small stays behind them
_BATCHES = """
import ctypes, pathlib, re
from runner.machine.memory import give_back_freed
print(give_back_freed())
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(2):
    blocks = [libc.malloc(28 << 20) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 28 << 20)
    libc.malloc(100_000)
    for block in blocks:
        libc.free(block)
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search("RssAnon: *([0-9]+)", status.replace(chr(9), " "))[1]) >> 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no other C library can be told")
@pytest.mark.parametrize("tuned", [{}, {"MALLOC_MMAP_THRESHOLD_": "33554432"}])
def test_freed_batches_are_not_kept_unless_the_user_wants_it(tuned: dict[str, str]) -> None:
    bare = {name: value for name, value in os.environ.items() if "MALLOC" not in name.upper()}
    done = subprocess.run(
        [sys.executable, "-c", _BATCHES], env=bare | tuned, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    set_here, megabytes = done.stdout.split()
    assert (set_here, int(megabytes) < 100) == (str(not tuned), not tuned)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="in other units elsewhere")
def test_training_and_evaluation_in_one_process_hold_the_data_once(tmp_path: Path) -> None:
    """Of a mapped file the pages, which the kernel may take back, come to the copy in use."""
    peaks = []
    for count in (600, 12_000):
        x, y = np.zeros((count, 128, 128, 1), "uint8"), np.arange(count) % 2
        np.savez(tmp_path / f"{count}.npz", x_train=x, y_train=y, x_test=x[:100], y_test=y[:100])
        runner = Runner(tmp_path / f"store{count}")
        changes = {
            "data": {"name": "npz", "path": str(tmp_path / f"{count}.npz")},
            "model": {"name": "mlp", "arguments": {"units": [4]}},
            "training": {"epochs": 1, "batch_size": 100},
            "evaluation.augmented_passes": 1,
            "evaluation.batch_size": 100,
        }
        process = runner.start("submit", str(QUICKSTART), *sets(changes))
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, process.communicate()[1]
        peaks.append(usage.ru_maxrss * 1024)
    assert peaks[1] - peaks[0] < 2.5 * (12_000 - 600) * 128 * 128
