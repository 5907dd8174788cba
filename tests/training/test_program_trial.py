"""What the trial of `submit` tells before a job is stored, and what it leaves alone."""

import re
from pathlib import Path

import pytest

from runner.errors import SpecError
from runner.evaluation.trial import build_report
from tests.harness import few
from tests.training.program_files import (
    ATTRIBUTES,
    BATCHES,
    PIPELINE,
    finished,
    results,
    spec_of,
    write,
)

VECTOR = """
class Vector(keras.metrics.Metric):
    def update_state(self, *args, **kwargs): pass
    def result(self): return keras.ops.ones((3,))
"""


@pytest.mark.parametrize(
    ("changed", "said"),
    few(
        [
            (
                ("made(1)", "tuple(one[:0] for one in made(1))"),
                '"validation_data": ...} has no example. (programs/mine.py, line 27)',
            ),
            (("made(2)", "[one[:0] for one in made(2)]"), 'evaluate={"x": ...} has no example'),
            (
                ("made(1)", "(np.full((9, 4), 'text'), np.zeros(9))"),
                "Invalid dtype: str128: an array of texts must be array.astype(object), or "
                "tf.constant(array) (programs/mine.py, line 27)",
            ),
            (('metrics=["mae"]', "metrics=[Vector(name='v')]"), "the metric 'v' gives 3 numbers"),
        ],
        2,
    ),
)
def test_what_can_never_be_trained_is_told_by_the_trial(
    folder: Path, changed: tuple[str, str], said: str
) -> None:
    write(folder, VECTOR + BATCHES.replace(*changed))
    with pytest.raises(SpecError, match=re.escape(said)):
        build_report(spec_of(), source="job.json")


EVALUATED = """
def judge(model):
    x, y = made(2)
    RESULT
""" + BATCHES.replace('evaluate=dict(zip("xy", made(2)))', "evaluate=judge")


@pytest.mark.parametrize(
    ("result", "said"),
    few([
        ("return 'good'", "returned a str; expected numbers by name. (programs/mine.py, line 21)"),
        ("pass", "returned None; expected numbers by name. (programs/mine.py, line 21)"),
        ("return {'a': 'b'}", "a str; expected a number or an array of numbers."
         " (programs/mine.py, line 21)"),
        ("return {'a': y[200]}", "IndexError: index 200 is out of bounds for axis 0 with size 96 "
         "(programs/mine.py, line 21: return {'a': y[200]})"),
        ("raise SystemExit", "SystemExit:  (programs/mine.py, line 21: raise SystemExit)"),
        ("return {'probabilities': np.ones((96, 3)) / 3, 'labels': y}",
         "names 2 classes, but the model tells 3 apart. (programs/mine.py, line 21)"),
    ], 2),
)  # fmt: skip
def test_an_evaluation_that_would_fail_is_told_by_the_trial(
    folder: Path, result: str, said: str
) -> None:
    """Not after hours of training; with the user's own line."""
    write(folder, EVALUATED.replace("RESULT", result))
    with pytest.raises(SpecError) as told:
        build_report(spec_of(), source="job.json")
    assert str(told.value).startswith("job.json: ")
    assert said in str(told.value)
    build_report(spec_of(evaluation=None), source="job.json")  # it will not be called


def test_the_trial_compares_the_classes_with_what_the_model_tells_apart(folder: Path) -> None:
    """On one batch: the rest of the data is not looked at."""
    write(folder, BATCHES.replace('["low", "high"]', '["low", "mid", "high"]'))
    with pytest.raises(SpecError, match=r"3 classes, but .* 2 apart\. \(programs/mine\.py, line "):
        build_report(spec_of(), source="job.json")
    write(folder, PIPELINE.replace('"x": data, "steps": 3', '"x": once(data)') + """
def once(data):
    def batches():
        yield from data.take(5)
        raise RuntimeError("a later batch")
    return batches()
""")  # fmt: skip
    assert "one step: loss" in build_report(spec_of(), source="job.json")


WATCHED = BATCHES.replace("classes=", "callbacks=[CALLBACK],\n        classes=")


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        ("EarlyStopping('val_mea')", "EarlyStopping: received 'val_mea'; this training has loss"),
        ("ReduceLROnPlateau('acc')", "ReduceLROnPlateau: received 'acc'"),
        ("ModelCheckpoint('x.keras', 'acc', save_best_only=True)", "received 'acc'"),
        ("ModelCheckpoint('x.keras')", ""),  # it watches nothing
        ("EarlyStopping('val_mea'), Own()", ""),  # which may add what is watched
        ("LambdaCallback(on_epoch_end=print), keras.callbacks.EarlyStopping('f1')", ""),
        ("EarlyStopping('learning_rate', mode='min')", ""),  # others of Keras's add it
    ],
)
def test_what_keras_callbacks_watch_is_looked_for_by_the_trial(
    folder: Path, callback: str, said: str
) -> None:
    """Keras tells of it after an epoch, or warns and never stops."""
    own = "class Own(keras.callbacks.Callback): pass\n"
    write(folder, own + WATCHED.replace("CALLBACK", f"keras.callbacks.{callback}"))
    if not said:
        assert "one step: loss" in build_report(spec_of(), source="job.json")
        return
    with pytest.raises(SpecError, match=re.escape(said)) as told:
        build_report(spec_of(), source="job.json")
    assert str(told.value).endswith("(programs/mine.py, line 24)"), told.value


def test_what_callbacks_may_set_for_an_evaluation_is_only_doubted_by_the_trial(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    write(folder, ATTRIBUTES)
    said = build_report(spec_of(), source="job.json")
    assert "; its evaluation fails before it is trained: AttributeError: " in said
    assert "(programs/mine.py, line " in said


@pytest.mark.slow
def test_a_trial_changes_nothing_of_what_the_same_process_trains(folder: Path) -> None:
    """Whatever its evaluation draws, assigns and sets."""
    upsets = """keras.random.normal((3,)), np.random.rand(), random.random()
    model.optimizer.learning_rate.assign(1.0)
    model.layers[0].kernel.assign(np.zeros((4, 8)))
    keras.config.set_floatx("float16")
    made.__defaults__ = (9,)
    return {"a": 1.0}"""
    write(folder, "import random\n" + EVALUATED.replace("RESULT", upsets))
    before = results(*finished(spec_of()))
    build_report(spec_of(), source="job.json")
    assert results(*finished(spec_of())) == before
