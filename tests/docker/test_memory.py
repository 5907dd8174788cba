"""A container that hits its memory limit loses what any death loses, and says why it died."""

import pytest

from tests.docker.engine import Image
from tests.harness import Runner, sets

pytestmark = pytest.mark.docker

KILLED = 137
SAVED = 75
SMALL = "700m"
#: 36 million weights, their gradients and two slots each: 600 MB at once. (A limit that is only
#: just too small kills too, but the kernel then reads the program's pages anew for minutes.)
LARGE = {"name": "mlp", "arguments": {"units": [6000, 6000]}}


def test_the_memory_limit_is_hit(image: Image) -> None:
    """The engine and the attempt's log say that it was memory; with more, the job goes on."""
    host = Runner(image.store)
    job = sets({"model": LARGE, "training.epochs": 1, "evaluation": None})
    image.ok("submit", "jobs/quickstart.json", "--detach", *job)

    limits = [f"--memory={SMALL}", f"--memory-swap={SMALL}"]
    worker = image.start("resume", options=limits)
    assert worker.wait() == KILLED, worker.log()[-3000:]
    assert worker.state()["OOMKilled"]
    lost = host.job("quickstart")
    assert lost is not None
    assert lost.attempts == 1, "it died before it could claim the job"
    assert "GB of memory" in image.ok("logs", "quickstart")

    worker = image.start("resume")
    worker.until(lambda: committed(host) > 0)
    assert worker.stop()[0] == SAVED
    going_on = host.job("quickstart")
    assert going_on is not None
    assert going_on.state.value == "queued"
    assert (going_on.attempts, going_on.preemptions) == (2, 2)


def committed(host: Runner) -> int:
    job = host.job("quickstart")
    return job.step if job is not None else 0
