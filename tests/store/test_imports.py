"""`runner status` starts at once: what it imports loads nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = (
    *("tensorflow", "keras", "numpy", "pydantic", "fsspec", "gcsfs", "s3fs", "aiohttp"),
    *("rich", "sklearn", "blake3", "safetensors", "difflib", "asyncio"),
)


def loaded_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import runner.store.filesystem, runner.store.log",
        "import runner.store.probe, runner.store.schemes, runner.store.settings",
        "import runner.queue.queue, runner.queue.owner, runner.queue.lease",
        "from runner.queue.queue import Queue; from runner.store.filesystem import open_store;"
        "Queue(open_store('/tmp/no-such-store')).jobs()",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded_by(code).isdisjoint(HEAVY)
