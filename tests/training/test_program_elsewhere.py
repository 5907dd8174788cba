"""What a machine lacks leaves a program's job to others."""

import re
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner import code
from runner.engine.requirements import missing_here
from runner.errors import MissingHereError, SpecError
from runner.training.program import Program
from runner.training.programs import make
from tests.harness import REPOSITORY, few
from tests.training.program_files import BATCHES, finished, spec_of, write


def test_a_machine_without_the_program_leaves_its_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, BATCHES)
    spec = spec_of()
    monkeypatch.delenv(code.VARIABLE)
    with pytest.raises(MissingHereError, match="'mine' is not in runner/programs"):
        make(spec)
    lacks = missing_here(spec.effective(), "file:///store")
    assert lacks.startswith("it has no program 'mine' (program 'mine' is not in runner/programs.")


FIT = 'fit={"x": runner.Batches(x, y, batch_size=16, seed=1), "validation_data": made(1)}'


SEQUENCE = """
class Files(keras.utils.PyDataset):
    def __len__(self):
        return 5
    def __getitem__(self, index):
        return (np.load("/nowhere/x.npy") if index > NUMBER else np.ones((2, 4))), np.ones(2)
"""


@pytest.mark.parametrize(
    ("instead", "said"),
    few(
        [
            ("    open('no.csv')", "FileNotFoundError: [Errno 2]"),
            ("    raise ConnectionResetError('peer')", "ConnectionResetError: peer"),
            ("    raise ImportError('libGL.so.1')", "ImportError: libGL.so.1"),
            ("    import os; os.environ['NOT_HERE']", "KeyError: 'NOT_HERE'"),
            ("    keras.utils.get_file('x.bin', 'http://127.0.0.1:9/x')", "URL fetch failure"),
            ("evaluate=lambda model: open('/nowhere/x.csv')", "/nowhere/x.csv"),
            ("evaluate=lambda model: __import__('not_here')", "No module named 'not_here'"),
            ("records", "/nowhere/x.tfrecord; No such file"),
            ("-1", "/nowhere/x.npy"),
            ("2", "/nowhere/x.npy"),
        ],
        4,
    ),
)
def test_what_a_machine_lacks_leaves_the_job_to_others(
    folder: Path, instead: str, said: str
) -> None:
    """In the function, its data and its evaluation alike; the user's own line is told."""
    if instead.startswith("    "):
        text = BATCHES.replace("    x, y = made()", f"{instead}\n    x, y = made()")
    elif instead.startswith("evaluate"):
        text = BATCHES.replace('evaluate=dict(zip("xy", made(2)))', instead)
    elif instead == "records":
        data = "tf.data.TFRecordDataset('/nowhere/x.tfrecord').map(lambda _: (tf.ones(4), 1))"
        text = f"import tensorflow as tf\n{BATCHES}".replace(FIT, f"fit={{'x': {data}.batch(2)}}")
    else:
        text = SEQUENCE.replace("NUMBER", instead) + BATCHES.replace(FIT, "fit={'x': Files()}")
    write(folder, text)
    with pytest.raises(MissingHereError, match=re.escape(said)) as caught:
        finished(spec_of(training={"epochs": 1}, checkpoint={}))
    assert instead in ("records", "2") or "(programs/mine.py, line " in str(caught.value)


@pytest.mark.parametrize(
    "raised", [ValueError("mine"), KeyError("mine"), MemoryError("mine"), SystemExit(0)]
)
def test_other_exceptions_of_a_program_are_raised_as_they_are(
    folder: Path, raised: BaseException
) -> None:
    """They count as a failed attempt, and are tried again."""
    write(folder, f"def program():\n    raise {raised!r}\n")
    with pytest.raises(type(raised)):
        make(spec_of())


def test_a_fit_of_the_models_own_may_name_only_some_arguments() -> None:
    """And pass the others on, as KerasHub's do."""

    class Own(keras.Sequential):  # type: ignore[misc]
        def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
            return super().fit(x, y, **kwargs)

    model = Own([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = {"x": np.ones((4, 1)), "y": np.ones(4)}
    Program(model=model, fit={**data, "shuffle": False, "class_weight": {0: 1.0}})
    with pytest.raises(SpecError, match="Did you mean 'shuffle'"):
        Program(model=model, fit={**data, "shufle": False})


def test_a_folder_that_holds_runner_and_python_too_is_none_of_theirs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--code .` in a clone: else runner itself would be imported anew, and be the user's code."""
    write(folder, BATCHES)
    made = make(spec_of())
    for root in (REPOSITORY, Path("/")):
        monkeypatch.setenv(code.VARIABLE, str(root))
        assert not code.is_own(Path(code.__file__))
        assert not code.is_own(Path(keras.__file__))
        assert not code.is_own(Path(re.__file__))
        code.identity()
        code.forget()
    assert isinstance(made, Program)
    assert sys.modules["runner.training.program"].Program is Program
    assert sys.modules["re"] is re
