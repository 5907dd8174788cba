"""What a worker says when it can't do as if nothing had happened."""

import signal
import threading
from pathlib import Path

import pytest

from runner.checkpoint.ledger import Ledger
from runner.queue.job import State
from tests.harness import QUICKSTART, Runner, sets

SHORT = {
    "model": {"name": "mlp"},
    "training.epochs": 2,
    "checkpoint.every": "5 steps",
    "evaluation": None,
}


@pytest.mark.slow
def test_damage_and_other_numerics_are_said_and_the_job_goes_on(tmp_path: Path) -> None:
    """The newest checkpoint is cut short, and the next machine has no oneDNN."""
    runner = Runner(tmp_path)
    died = runner.run("submit", str(QUICKSTART), *sets(SHORT), sabotage="committed:4")
    assert died.returncode == -9, died.stderr[-2000:]
    job = runner.job("quickstart")
    assert job is not None
    newest, before = job.checkpoints[:2]
    manifest = tmp_path / newest["manifest"]
    manifest.write_bytes(manifest.read_bytes()[:-20])
    resumed = runner.run("resume", environment={"TF_ENABLE_ONEDNN_OPTS": "0"})
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert (
        f"a damaged checkpoint was passed over, the one of step {before['step']} is used: "
        f"step {newest['step']}: {newest['manifest']}"
    ) in resumed.stderr
    different = "continued on different numerics: onednn default -> 0"
    assert different in resumed.stderr
    status = runner.status("quickstart")
    assert different in status["notes"]
    assert status["state"] == "succeeded"
    assert different in runner.ok("status", "quickstart")


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """Nothing is tidied up: the job is lost, as after a kill, and can be resumed."""
    runner = Runner(tmp_path)
    worker = runner.start("submit", str(QUICKSTART), sabotage="slow:6")  # so that saving lasts
    assert worker.stderr is not None
    watchdog = threading.Timer(240, worker.kill)
    watchdog.start()
    for line in worker.stderr:
        if "saving and releasing the job" in line:
            worker.send_signal(signal.SIGTERM)
            break
        if line.startswith("quickstart: epoch ") and "step 0/" not in line:  # it saves first
            worker.send_signal(signal.SIGTERM)
    _, rest = worker.communicate()
    watchdog.cancel()
    assert worker.returncode == 128 + signal.SIGTERM, rest
    assert "leaving at once" in rest
    job = runner.job("quickstart")
    assert job is not None
    assert job.state is State.RUNNING, "it released, so it had not left at once"
    assert runner.status("quickstart")["state"] == "lost"


@pytest.mark.slow
def test_a_flipped_bit_or_a_lost_record_ends_no_job(tmp_path: Path) -> None:
    """In any pack, one checkpoint earlier is whole; the newest record comes back from its copy."""
    runner = Runner(tmp_path)
    died = runner.run("submit", str(QUICKSTART), *sets(SHORT), sabotage="committed:4")
    assert died.returncode == -9, died.stderr[-2000:]
    job = runner.job("quickstart")
    assert job is not None
    steps = [reference["step"] for reference in job.checkpoints]
    for pack in (tmp_path / "jobs/quickstart/packs").iterdir():
        data = pack.read_bytes()
        for place in (0, 20, len(data) // 2, len(data) - 1):
            pack.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            ledger = Ledger(
                runner.queue().store,
                "jobs/quickstart",
                token=9,
                commit=lambda _: None,
                checkpoints=job.checkpoints,
                warn=lambda text: None,
            )
            restored = ledger.restore()
            assert restored is not None
            assert restored.position.global_step in steps
        pack.write_bytes(data)
    (tmp_path / f"jobs/quickstart/log/{job.number:012d}.json").unlink()
    assert runner.status("quickstart")["state"] == "lost"
    resumed = runner.run("resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "nothing to work on" not in resumed.stderr
    assert runner.status("quickstart")["state"] == "succeeded"
