"""A worker on a Ray node: trains by hashing, on a host that nobody else can look into.

All nodes of the test's cluster are this machine, where a dead worker's process would be seen to
be gone. So each node calls itself another host, and its workers have to be missed.
"""

import os
import sys
from pathlib import Path

from runner.cli.main import main
from runner.engine import worker
from runner.queue.owner import NODE_VARIABLE
from tests.chaos import hashing


def node() -> str:
    """The beginning of the Ray node's id."""
    return os.environ[NODE_VARIABLE].split()[1]


if __name__ == "__main__":
    os.environ["HASHING_HOST"] = node()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    Path(os.environ["HASHING_STEPS"], f"gpus.{node()}.{os.getpid()}").write_text(seen)
    hashing.install()
    setattr(worker, "this_process", hashing.owner)  # noqa: B010
    sys.exit(main())
