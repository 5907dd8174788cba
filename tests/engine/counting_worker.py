"""`runner`, whose stages count instead of training: real processes without seconds of TensorFlow.

`SABOTAGE` as in `tests.saboteur`; packages that `WITHOUT` names are not installed here.
"""

import os
import sys

from runner.engine import running, worker
from runner.errors import TrainingError
from runner.queue.job import Job
from tests.engine.counting import Counting
from tests.saboteur import sabotage


def fail_where_asked(job: Job, step: int) -> None:
    if job.id.startswith("bad") and step == 2:
        raise TrainingError(f"{job.id} came to no good.")


if __name__ == "__main__":
    for package in filter(None, os.environ.get("WITHOUT", "").split(",")):
        sys.modules[package] = None  # type: ignore[assignment]
    setattr(running, "run_stage", Counting(on_step=fail_where_asked))  # noqa: B010
    setattr(worker, "import_keras", lambda: None)  # noqa: B010
    if moment := os.environ.get("SABOTAGE"):
        sabotage(moment)
    from runner.cli.main import main

    code = main()
    if "SAY_IMPORTS" in os.environ:
        print(*sorted(sys.modules))
    sys.exit(code)
