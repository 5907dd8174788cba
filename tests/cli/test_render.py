"""What people read while a job is worked on."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from runner.cli.render import PlainReporter
from runner.queue.job import Job, Stage, submitted
from runner.training.progress import Progress

EPOCHS = 15


def trained(epochs: int) -> Job:
    job = submitted("cats", {"name": "cats"}, datetime.now(UTC))
    return replace(job, kind="finish", stage=Stage.EVALUATE, epoch=epochs, step=36 * epochs)


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (EPOCHS, "cats: training ended after 15 epochs, at step 540; evaluation queued"),
        (9, "cats: training stopped early after 9 epochs, at step 324; evaluation queued"),
        (1, "cats: training stopped early after 1 epoch, at step 36; evaluation queued"),
    ],
)
def test_a_training_that_stopped_early_is_told(
    capsys: pytest.CaptureFixture[str], epochs: int, said: str
) -> None:
    reporter, job = PlainReporter([]), trained(epochs)
    reporter.started(job)
    reporter.progressed(
        job,
        Progress(
            stage="train",
            epoch=epochs,
            epochs=EPOCHS,
            step=0,
            steps=36,
            global_step=36 * epochs,
            metrics={},
        ),
    )
    reporter.ended(job)
    assert capsys.readouterr().err.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("epoch", "said"),
    [
        (0, "cats: resuming at step 20 (attempt 2)"),
        (3, "cats: resuming after epoch 3, at step 128 (attempt 2)"),
    ],
)
def test_an_attempt_says_where_it_goes_on(
    capsys: pytest.CaptureFixture[str], epoch: int, said: str
) -> None:
    step = 36 * epoch + 20
    job = submitted("cats", {"name": "cats"}, datetime.now(UTC))
    PlainReporter([]).started(
        replace(job, attempts=2, epoch=epoch, step=step, checkpoints=({"step": step},))
    )
    assert capsys.readouterr().err.splitlines() == [said]
