"""What a step frees, the next one gets without asking the kernel for it."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")

PROGRAM = """
import ctypes, resource
from runner.training.allocator import keep_freed_memory

print(keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 100 << 20

def step():
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults

step()
print(step() * resource.getpagesize() < size / 100)
"""


def run(**environment: str) -> list[str]:
    """Return what the program prints: whether it was set, whether memory was kept."""
    clean = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_step_takes_again_what_the_step_before_has_freed() -> None:
    assert run() == ["True", "True"]


@pytest.mark.parametrize(
    "tuned",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
    ids=lambda tuned: next(iter(tuned)),
)
def test_what_the_user_has_tuned_is_left(tuned: dict[str, str]) -> None:
    assert run(**tuned) == ["False", "False"]
