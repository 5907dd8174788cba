"""A container that hits its memory limit loses what any death loses, and says why it died."""

import pytest

from tests.docker.engine import Image
from tests.harness import Runner

pytestmark = pytest.mark.docker

KILLED = 137
SMALL = "400m"  # enough to claim the job, not to train it


def test_the_memory_limit_is_hit(image: Image) -> None:
    """The engine and the attempt's log say that it was memory; with more, the job goes on."""
    host = Runner(image.store)
    quick = ["--set", "training.epochs=1", "--set", "evaluation=null"]
    image.ok("submit", "jobs/quickstart.json", "--detach", *quick)

    limits = [f"--memory={SMALL}", f"--memory-swap={SMALL}"]
    worker = image.start("resume", options=limits)
    assert worker.wait() == KILLED, worker.log()[-3000:]
    assert worker.state()["OOMKilled"]
    job = host.job("quickstart")
    assert job is not None
    assert job.attempts == 1, "it died before it could claim the job"
    assert "GB of memory" in image.ok("logs", "quickstart").splitlines()[-1]

    done = image.run("resume")
    assert done.returncode == 0, done.stderr[-3000:]
    status = host.status("quickstart")
    assert status["state"] == "succeeded"
    assert status["preemptions"] == 1
    assert status["attempts"] == 2
