"""`runner work --engine ray` as it is, but its workers are those of `tests.ray.worker`."""

import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from runner.cli import cluster
from runner.cli.main import main
from runner.engine.keeper import Work


def work(*, environment: Mapping[str, str], **options: Any) -> Work:
    passed = {"HASHING_STEPS": os.environ["HASHING_STEPS"]}
    return Work(environment={**environment, **passed}, **options)


if __name__ == "__main__":
    setattr(cluster, "Work", partial(work, module="tests.ray.worker"))  # noqa: B010
    sys.exit(main())
