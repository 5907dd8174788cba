"""All that has a memory, in one training that is killed, ends bit-identically."""

from pathlib import Path

import pytest

from tests.harness import OFTEN, QUICKSTART, Runner, assert_same, finish, sets

#: every callback that has a memory, dropout, and every random layer
EVERYTHING = {
    "name": "everything",
    "training.epochs": 5,
    "training.early_stopping": {"monitor": "val_loss", "patience": 1, "min_delta": 0.02},
    "training.reduce_lr_on_plateau": {"monitor": "val_loss", "patience": 0, "factor": 0.5},
    "augmentation": {"flip": "horizontal", "rotation": 0.1, "zoom": 0.1},
    "model": {"name": "mlp", "arguments": {"dropout": 0.3}},  # traced in a tenth of the time
    "checkpoint.best": {"monitor": "val_top_1"},
    "evaluation.checkpoint": "best",
    **OFTEN,
}


@pytest.mark.slow
def test_all_that_remembers_together(tmp_path: Path) -> None:
    """EarlyStopping, ReduceLROnPlateau, dropout, augmentation and the best checkpoint."""
    reference = Runner(tmp_path / "reference", warm=True)
    reference.ok("submit", str(QUICKSTART), "--detach", *sets(EVERYTHING))
    undisturbed = finish(reference, "everything")
    assert undisturbed["epoch"] < 5 or len(undisturbed["history"]["learning_rate"]) == 5
    runner = Runner(tmp_path / "killed", warm=True)
    runner.ok("submit", str(QUICKSTART), "--detach", *sets(EVERYTHING))
    status = finish(runner, "everything", "step:4", "validation:1", "epoch:2", "train_end")
    assert_same(status, undisturbed)
    assert status["best"] == undisturbed["best"]
