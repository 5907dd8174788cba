"""Mistakes of a program, in the user's own words and lines."""

import re
from pathlib import Path
from typing import Any

import pytest

from runner import code, registry
from runner import spec as specs
from runner.errors import SpecError, TrainingError
from runner.evaluation.measure import measure
from runner.training.check import load_data
from runner.training.host import Alone
from runner.training.programs import make
from tests.training.program_files import BATCHES, HEAD, finished, spec_of, write


def test_a_job_without_an_evaluation_ends_with_its_training(folder: Path) -> None:
    write(folder, re.sub(r"        evaluate=.*\n", "", BATCHES))
    _, job = finished(spec_of())
    assert job.state.value == "succeeded"
    assert job.evaluation is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("model.compile", "model.summary; (lambda *a, **k: 0)"), "is not compiled"),
        (("return runner.Program", "return dict"), "no runner.Program"),
        (('fit={"x"', 'fit={"epochs": 3, "x"'), "training.epochs"),
        (('"validation_data"', '"validation_date"'), "Did you mean 'validation_data'?"),
        (("evaluate=dict", "evaluate=list"), "evaluate"),
        (('evaluate=dict(zip("xy", made(2)))', "evaluate={}"), 'evaluate=...) has no "x"'),
        (('zip("xy", made(2))', 'zip("xy", made(2)), steps=0'), '"steps" 0; expected at least 1'),
        (('classes=["low", "high"]', "classes=2"), "classes=...) received"),
        (('classes=["low", "high"]', "callbacks=None"), "callbacks=...) received"),
        (('classes=["low", "high"]', 'classes="ab"'), "classes=...) received"),
        (("x, y = made()", "open('no.csv')"), "'no.csv' (programs/mine.py, line"),
        (("x, y = made()", "open('no.csv')"), "looked for in "),
    ],
)
def test_mistakes_of_a_program(folder: Path, changed: tuple[str, str], said: str) -> None:
    """Each names what was given, and the line of the user's own file."""
    text = BATCHES.replace(*changed)
    assert text != BATCHES
    write(folder, text)
    with pytest.raises(SpecError, match=re.escape(said)):
        finished(spec_of())


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("{'a': [[1], [2, 3]]}", "the evaluation's 'a' is no array"),
        ("{'a': 1j}", "the evaluation's 'a' is a complex; expected a number"),
        ("{'a': None}", "the evaluation's 'a' is None; expected a number"),
        (
            "{'a': ['x']}",
            "the evaluation's 'a' is of the type <U1; expected a number or an array",
        ),
        ("[1]", r"evaluate\(model\) returned a list; expected numbers by name"),
        ("{1: 2, '1': 3}", "two results of the name '1'"),
        ("{'json': 1, 'npz': [2], 'x': 3}", "can't name a result 'json', 'npz': runner's own"),
        ("{'timing': 1}", "can't name a result 'timing'"),
        (
            "{'probabilities': np.eye(2), 'labels': [0, 1], 'confusion': np.eye(2)}",
            "can't name a result 'confusion'",
        ),
        ("{'probabilities': np.eye(2) / 0, 'labels': [0, 1]}", "probabilities are not finite"),
        ("{'probabilities': np.ones((4, 2)) / 2, 'labels': [0, 1, 1]}", "3 'labels' between 0 and"),
        ("{'probabilities': np.ones((2, 2)) / 2, 'labels': [0, 7]}", "2 'labels' between 0 and 7"),
    ],
)
def test_results_that_dont_fit_are_named(folder: Path, found: str, said: str) -> None:
    """And tried once: the same again would end the same."""
    write(
        folder, BATCHES.replace('evaluate=dict(zip("xy", made(2)))', f"evaluate=lambda _: {found}")
    )
    with pytest.raises(TrainingError, match=said):
        measure(make(spec_of()), Alone())


def test_what_the_program_decides_is_refused_in_the_spec(folder: Path) -> None:
    write(folder, BATCHES)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"data": {"name": "digits"}}, "data is set"),
        ({"optimizer": {"learning_rate": 0.1}}, "optimizer is set"),
        ({"training": {"batch_size": 3}}, "training.batch_size is set"),
        ({"training": {"jit_compile": True}}, "training.jit_compile .* give it to model.compile"),
        (
            {"training": {"phases": [{"epochs": 1}]}},
            'training.phases .* for images: make each phase a job .*"take": "weights"',
        ),
        ({"evaluation": {"augmented_passes": 3}}, "evaluation.augmented_passes is set"),
    ]
    for parts, field in refused:
        with pytest.raises(SpecError, match=field):
            spec_of(**parts)
    effective = spec_of().effective()
    assert "data" not in effective
    assert "batch_size" not in effective["training"]
    assert specs.parse(effective, source="again").effective() == effective


def test_no_code_outside_the_folder_is_an_entry(folder: Path) -> None:
    """A spec's name is no path."""
    (folder / "outside.py").write_text("def program():\n    raise SystemExit\n")
    for name in ("../outside", "..outside", "/etc/passwd", "mine/../../outside"):
        with pytest.raises(SpecError, match="is not in"):
            spec_of(program={"name": name})


def here() -> Any:
    """A traceback of no user's code."""
    try:
        raise RuntimeError
    except RuntimeError as error:
        return error.__traceback__


def test_a_crash_shows_the_users_own_lines(folder: Path) -> None:
    """Not those of runner and Keras."""
    path = write(folder, 'def program():\n    raise RuntimeError("mine")\n')
    made = code.load(path)
    with pytest.raises(RuntimeError) as caught:
        made.program()
    line = len(HEAD.splitlines()) + 2
    assert code.where(caught.value) == f'programs/mine.py, line {line}: raise RuntimeError("mine")'
    shown = code.traceback_of(caught.value)
    assert shown.count("File ") == 1
    assert str(path) in shown
    assert "test_program_mistakes.py" in code.traceback_of(RuntimeError("x").with_traceback(here()))


def test_a_function_that_never_returns_has_a_line_too(folder: Path) -> None:
    path = write(folder, "def program(*, path):\n    raise NotImplementedError\n")
    function = registry.get("programs", "mine")
    line = path.read_text().splitlines().index("def program(*, path):") + 1
    assert code.of_function(function) == f" (programs/mine.py, line {line})"


def test_what_a_data_set_prints_is_no_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "datasets").mkdir()
    text = "from runner.datasets.digits import load as digits\nprint('read')\n"
    text += "def load(path=None):\n    print('loaded')\n    return digits()\n"
    (folder / "datasets" / "mine.py").write_text(text)
    load_data(specs.parse({"name": "a", "data": {"name": "mine"}}, source="test"))
    said = capsys.readouterr()
    assert (said.out, said.err.split()) == ("", ["read", "loaded"])


def test_what_is_long_is_cut_at_a_word_if_there_is_one() -> None:
    assert code.words(ValueError("x" * 400)) == f"ValueError: {'x' * 200} …"
    assert code.words(ValueError("word " * 80)) == f"ValueError: {'word ' * 59}word …"


def test_an_error_is_told_on_one_line_without_escape_codes() -> None:
    assert code.words(ValueError("a\nb\n \x1b[31;1mred\x1b[K")) == "ValueError: a b red"
