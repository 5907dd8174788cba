"""What cannot work is refused at once, with the field, the value and the fix."""

import dataclasses
import enum
import importlib
import inspect
import io
import json
import math
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner import code, optimizers, registry, spec, specfile, specparts
from runner.checkpoint import policy
from runner.errors import NotFoundError, SpecError

JOBS = sorted((Path(__file__).parent.parent / "jobs").glob("[!.]*.json"))


def write(folder: Path, raw: Any) -> Path:
    path = folder / "job.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw), encoding="utf-8")
    return path


def mistakes(folder: Path, raw: Any, *changes: str) -> str:
    with pytest.raises(SpecError) as caught:
        specfile.load(write(folder, raw), changes)
    return str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Each with its path, what was given and what is known."""
    text = mistakes(
        tmp_path,
        {
            "name": "Bad Name",
            "sed": 1,
            "data": {"validation_split": 1.0},
            "training": {"epochs": -1, "early_stopping": {"monitor": "val_top1"}},
            "optimizer": {"name": "adm"},
            "checkpoint": {"every": "30 parsecs"},
        },
    )
    lines = text.splitlines()
    assert lines[0].endswith("job.json: 7 mistakes")
    assert 'name: received "Bad Name"' in text
    assert "sed: no such field. Did you mean 'seed'?" in text
    assert "data.validation_split: received 1.0; input should be less than 1" in text
    assert "training.epochs: received -1" in text
    assert "Did you mean 'val_top_1'?" in text
    assert "Did you mean 'adam'?" in text
    assert "checkpoint.every: received '30 parsecs'; expected '30s', '200 steps'" in text


def test_mistakes_in_fields_hide_none_in_how_they_fit(tmp_path: Path) -> None:
    """Wrong fields, fields that contradict each other, arguments: one round."""
    text = mistakes(
        tmp_path,
        {
            "name": "a",
            "training": {"epochs": 1, "phases": [{"epochs": 1}], "early_stopping": {}},
            "data": {"validation_split": 0.0},
            "checkpoint": {"every": "0s"},
            "evaluation": {"checkpoint": "best"},
            "optimizer": {"arguments": {"beta1": 0.8}},
            "budget": {"hours": "1h"},
            "after": ["a"],
        },
    )
    fields = ("training.epochs", "checkpoint.every", "budget.hours", "after", "training.early_",
              "evaluation.checkpoint", "optimizer.arguments.beta1")  # fmt: skip
    assert [one for one in fields if f"  {one}" not in text] == [], text
    assert "7 mistakes" in text


@pytest.mark.parametrize("named", ["acc", "accuracy", "sparse_categorical_accuracy"])
def test_an_accuracy_by_keras_name_is_shown_ours(tmp_path: Path, named: str) -> None:
    for prefix in ("", "val_"):
        raw = {"name": "x", "training": {"early_stopping": {"monitor": prefix + named}}}
        assert f"Did you mean '{prefix}top_1'?" in mistakes(tmp_path, raw)


def test_a_list_is_shown_and_what_only_runner_writes_is_not(tmp_path: Path) -> None:
    text = mistakes(tmp_path, {"name": "x", "data": {"pth": "x.npz"}}, "after=first")
    assert 'after: received "first"; expected a list such as ["first"].' in text
    assert "Known: name, path, validation_split" in text


@pytest.mark.parametrize("change", ["sweep=1", "sweep.0.name=x"])
def test_a_sweep_is_not_set(tmp_path: Path, change: str) -> None:
    assert "--set sweep: a sweep stands in the file" in mistakes(tmp_path, {"name": "x"}, change)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("training.epochs", 0, "greater than or equal to 1"),
        ("training.batch_size", -5, "greater than or equal to 1"),
        ("training.batch_size", "many", "valid integer"),
        ("training.threads", 0, "greater than or equal to 1"),
        ("optimizer.learning_rate", 0, "greater than 0"),
        ("optimizer.learning_rate", "NaN", "valid number"),
        ("data.validation_split", -0.1, "greater than or equal to 0"),
        ("data.repeat", 0, "greater than or equal to 1"),
        ("checkpoint.keep", 0, "greater than or equal to 1"),
        ("checkpoint.max_loss", "soon", "expected a duration"),
        ("checkpoint.every", "0 steps", "expected '30s'"),
        ("checkpoint.every", "0s", "expected '30s'"),
        ("seed", -1, "greater than or equal to 0"),
        ("augmentation.zoom", 1.0, "less than 1"),
    ],
)
def test_numbers_that_cannot_work_are_refused(
    tmp_path: Path, field: str, value: object, word: str
) -> None:
    """The message names the field and the bound."""
    text = mistakes(tmp_path, {"name": "x"}, f"{field}={json.dumps(value)}")
    assert f"{field}:" in text
    assert word in text


@pytest.mark.parametrize(
    "every", ["30s", "1.5 h", "2m", "200 steps", "1 epoch", "3 epochs", "1 step", "30 Seconds"]
)
def test_every_interval_that_a_spec_takes_is_one_for_the_checkpoints(
    tmp_path: Path, every: str
) -> None:
    """Nothing that was stored is refused by the worker."""
    loaded = specfile.load(write(tmp_path, {"name": "x"}), [f"checkpoint.every={every}"])
    policy.parse(loaded.checkpoint.every)


@pytest.mark.parametrize(
    "change",
    [
        "data.path=~nobody-of-that-name/x",
        'data.path="a\\u0000b"',
        f"training.epochs={'9' * 5000}",
        f"model.arguments={'[' * 5000}",
        'optimizer.arguments={"beta_1": NaN}',
        "checkpoint.every=automatic",
        f"checkpoint.every={'9' * 400} steps",
        f"checkpoint.max_loss={'9' * 400}h",
        f"training.epochs=1{'0' * 400}",
        "training.threads=99999999999",
    ],
)
def test_absurd_changes_are_refused_in_words(tmp_path: Path, change: str) -> None:
    """A SpecError, whatever Python itself would raise."""
    assert mistakes(tmp_path, {"name": "x"}, change)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    assert specfile.load(write(tmp_path, '\ufeff{"name": "x"}')).name == "x"


def test_a_users_own_file_that_is_unfinished_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback: the file, what is wrong with it, and where."""
    package = tmp_path / "runner"
    (package / "models").mkdir(parents=True)
    (package / "models" / "odd.py").write_text("def build(:\n")
    (package / "models" / "empty.py").write_text("x = 1\n")
    monkeypatch.setattr(registry, "__file__", str(package / "registry.py"))
    models = importlib.import_module("runner.models")
    monkeypatch.setattr(models, "__path__", [str(package / "models")])
    with pytest.raises(SpecError, match=r"models/odd\.py can't be imported: SyntaxError.*line 1"):
        spec.parse({"name": "x", "model": {"name": "odd"}}, source="test")
    with pytest.raises(SpecError, match=r"models/empty\.py defines no function build"):
        spec.parse({"name": "x", "model": {"name": "empty"}}, source="test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("program = 1\ny = (2\n", "'(' was never closed (programs/odd.py, line 2: y = (2)"),
        (
            "import odder\ndef program(): pass\n",
            "No module named 'odder' (programs/odd.py, line 1: import odder): install it here,"
            " or put it beside this file",
        ),
    ],
)
def test_a_program_that_cant_be_imported_is_told_with_its_line_once_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "odd.py").write_text(text)
    monkeypatch.setenv(code.VARIABLE, str(tmp_path))
    with pytest.raises(NotFoundError) as told:
        registry.get("programs", "odd")
    assert str(told.value).partition("Error: ")[2] == said


def test_an_import_that_takes_long_is_told_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "late.py").write_text(
        "import sys, time\ndef program(): pass\n"
        "for _ in range(500): sys.stderr.getvalue() or time.sleep(0.01)\n"
    )
    monkeypatch.setenv(code.VARIABLE, str(tmp_path))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    monkeypatch.setattr(registry, "SLOW_IMPORT_SECONDS", 0.05)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    registry.get("programs", "late")
    assert terminal.getvalue() == "importing programs/late.py\n"
    code.forget()


class Offered:
    """An entry point of a package."""

    dist = None
    value = "odd"

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.found = name, found

    def load(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_a_package_that_lacks_something_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Offered("odd", ModuleNotFoundError("No module named 'odder'"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(SpecError, match=r"'odd' can't be imported here: odd: .* 'odder'"):
        spec.parse({"name": "x", "model": {"name": "odd"}}, source="test")


def test_parameters_of_a_builder_need_no_star(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(input_shape: Any, classes: int, units: int = 3) -> None:
        pass

    monkeypatch.setattr(registry, "entry_points", lambda group: [Offered("odd", build)])
    model = {"name": "odd", "arguments": {"units": 5}}
    assert spec.parse({"name": "x", "model": model}, source="test").model.arguments == {"units": 5}


class Size(enum.Enum):
    SMALL = "small"


@dataclasses.dataclass
class Own:
    width: int = 1


class Plain:
    """Nothing that JSON can hold."""


def offer(monkeypatch: pytest.MonkeyPatch, program: Any) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Offered("odd", program)])


def taken(arguments: Any, *, times: int = 2) -> tuple[Any, Any]:
    """What a job's function gets after its spec was stored and read, and what the record shows."""
    raw: Any = {"name": "x", "program": {"name": "odd", "arguments": arguments}}
    job: Any = None
    for _ in range(times):
        job = spec.parse(raw, source="test")
        raw = json.loads(json.dumps(job.effective(), allow_nan=False))
    called = spec.as_called(registry.get("programs", "odd"), "programs", job.program.arguments)
    return called, raw["program"]["arguments"]


def test_a_function_gets_its_own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a plain call; the record shows them as JSON has them."""

    def program(
        *,
        sizes: Any = (64, 32),
        named: Any = {1: "a"},  # noqa: B006
        where: Path = Path("a"),
        size: Size = Size.SMALL,
        own: Own = Own(),  # noqa: B008
        many: Iterable[int] = (1, 2),
        rate: float = 1,
    ) -> None:
        pass

    offer(monkeypatch, program)
    got, shown = taken({})
    own = program.__kwdefaults__ or {}
    assert own | got == own
    assert isinstance(got["rate"], float)
    assert shown == {
        "sizes": [64, 32],
        "named": {"1": "a"},
        "where": "a",
        "size": "small",
        "own": {"width": 1},
        "many": [1, 2],
        "rate": 1.0,
    }
    given = {"sizes": [1], "named": {"2": "b"}}
    assert taken(given)[0] == {**got, **given}


def test_arguments_are_of_the_types_that_the_function_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def program(
        *, sizes: tuple[int, ...], where: Path, size: Size, many: Iterable[int], b: "Path" = Path()
    ) -> None:
        pass

    offer(monkeypatch, program)
    given = {"sizes": [1], "where": "b", "size": "small", "many": [3], "b": "c"}
    got, shown = taken(given)
    assert got == {**given, "sizes": (1,), "where": Path("b"), "size": Size.SMALL, "b": Path("c")}
    assert shown == given


@pytest.mark.parametrize(
    "default",
    [
        math.inf,
        (1, math.nan),
        None,
        np.float32(0.1),
        np.zeros(3),
        len,
        Plain(),
        b"\xff",
        threading.Lock(),
        {"a", "b"},
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("annotation", [inspect.Parameter.empty, int, Plain, "Unknown", "a b", 3])
def test_what_a_spec_cannot_give_is_left_to_the_function(
    monkeypatch: pytest.MonkeyPatch, default: Any, annotation: Any
) -> None:
    """Every job that is stored can be read again, whatever stands in the signature."""

    def program(*, clip: Any, copy: int = 1, model_dump: int = 2, json: int = 3) -> None:
        pass

    program.__kwdefaults__ = {"clip": default, **(program.__kwdefaults__ or {})}
    program.__annotations__["clip"] = annotation
    if annotation is inspect.Parameter.empty:
        del program.__annotations__["clip"]
    offer(monkeypatch, program)
    got, shown = taken({})
    if default is None and annotation is not int:  # it can be given
        assert got.pop("clip") is shown.pop("clip") is None
    assert got == shown == {"copy": 1, "model_dump": 2, "json": 3}
    assert taken({"clip": 2, "copy": 3})[1] == {**shown, "clip": 2, "copy": 3}
    with pytest.raises(SpecError, match=r"program.arguments.copi: no such field.*arguments.copy'"):
        taken({"copi": 2})


def test_what_each_process_would_see_in_another_order_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A set of texts: a resume would go through it in another order."""

    def program(
        *, names: frozenset[str] = frozenset({"a"}), inner: tuple[set[str], ...] = ()
    ) -> None:
        pass

    def numbers(*, sizes: set[int]) -> None:
        pass

    offer(monkeypatch, program)
    assert taken({})[1] == {"inner": []}
    for name, value in (("names", ["x", "y"]), ("inner", [["x"]])):
        with pytest.raises(SpecError, match=rf"arguments\.{name}: a set .* take a tuple"):
            taken({name: value})
    offer(monkeypatch, numbers)
    assert taken({"sizes": [3, 1, 1]}) == ({"sizes": {1, 3}}, {"sizes": [1, 3]})


def test_what_a_signature_demands_or_cant_be_given_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def program(width: int = 1, /, *, units: int) -> None:
        pass

    offer(monkeypatch, program)
    with pytest.raises(SpecError, match=r"program\.arguments\.units: is missing"):
        taken({})
    with pytest.raises(SpecError, match=r"arguments\.width: .* take the `/` out") as told:
        taken({"units": 2, "width": 3})
    assert "no such field" not in str(told.value)
    assert taken({"units": 2})[0] == {"units": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def program ( ): pass", ""),
        ("if True:\n    def program(): pass", ""),
        ("class program: pass", ""),
        ("from helper import program", ""),
        ("from helper import (\n    program,\n)", ""),
        ("program: object = lambda: 1", ""),
        ("def program(units=3, /): pass", ""),
        ("def program(units, /): pass", r"can't be given units by name: take the `/` out"),
        ("def program(seed=0, /): pass", r"can't be given seed by name: take the `/` out"),
        ("async def program(): pass", r"is asynchronous: write `def program\(...\)` without"),
        ("program = dict", r"does not lead to a function program\("),
        ("program = 3", r"does not lead to a function program\("),
        ("class A:\n    def program(self): pass", r"defines no function program\("),
        ("print('no program')", r"defines no function program\("),
    ],
)
def test_whatever_can_be_called_is_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    """However its file comes to it; and what can't be called says why."""
    (tmp_path / "programs").mkdir()
    for name, content in (("mine", text), ("helper", "def program(): pass")):
        (tmp_path / "programs" / f"{name}.py").write_text(content)
    monkeypatch.setenv(code.VARIABLE, str(tmp_path))
    raw = {"name": "x", "program": {"name": "mine"}}
    if said:
        with pytest.raises(SpecError, match=said):
            spec.parse(raw, source="test")
    else:
        assert spec.parse(raw, source="test").program
        assert "mine" in registry.names("programs")
    code.forget()


def test_a_clash_of_names_concerns_no_other_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "diabetes.py").write_text("def program(): pass\n")
    monkeypatch.setenv(code.VARIABLE, str(tmp_path))
    with pytest.raises(SpecError, match=r"'descriptons' is not in .*Did you mean 'descriptions'"):
        spec.parse({"name": "x", "program": {"name": "descriptons"}}, source="test")
    with pytest.raises(SpecError, match="runner has a program 'diabetes' itself: rename yours"):
        spec.parse({"name": "x", "program": {"name": "diabetes"}}, source="test")


def test_a_field_in_the_wrong_place_is_shown_its_own(tmp_path: Path) -> None:
    text = mistakes(tmp_path, {"name": "x", "epochs": 5, "path": "x.npz"})
    assert "epochs: no such field. Did you mean 'training.epochs'?" in text
    assert "path: no such field. Did you mean 'program.path' or 'data.path' or 'from.path'?" in text


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("training.epoch", "training.epochs"),
        ("training.phases.0.epoch", "training.phases.0.epochs"),
        ("model.width", "model.arguments.width"),
        ("data.image_size", "data.arguments.image_size"),
    ],
)
def test_what_is_suggested_can_be_given_to_set(tmp_path: Path, field: str, meant: str) -> None:
    raw = {"name": "x", "data": {"name": "folder"}, "training": {"phases": [{}]}}
    text = mistakes(tmp_path, raw, f"{field}=5")
    assert f"{field}: no such field. Did you mean '{meant}'?" in text
    text = mistakes(tmp_path, raw, f"{meant}=-5.5")
    assert "no such field" not in text


def test_unknown_model_and_its_arguments_are_named(tmp_path: Path) -> None:
    """The registry's nearest name, and the build function's own parameters."""
    text = mistakes(tmp_path, {"name": "x", "model": {"name": "myinceptoin"}})
    assert "Did you mean 'myinception'?" in text
    assert "or install the package that has it" in text
    text = mistakes(tmp_path, {"name": "x", "model": {"arguments": {"widht": 2.0}}})
    assert "model.arguments.widht: no such field. Did you mean 'model.arguments.width'?" in text
    text = mistakes(tmp_path, {"name": "x", "model": {"arguments": {"width": "big"}}})
    assert 'model.arguments.width: received "big"' in text


def test_monitor_of_a_validation_that_does_not_exist(tmp_path: Path) -> None:
    """EarlyStopping on val_top_1 needs images held out."""
    raw = {"name": "x", "training": {"early_stopping": {}}, "data": {"validation_split": 0.0}}
    assert "hold images out" in mistakes(tmp_path, raw)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"name": "a", "name": "b"}', "\x00", "[" * 9999])
def test_files_that_are_no_spec(tmp_path: Path, text: str) -> None:
    """Not JSON, not an object, a field twice: the file is named, no traceback."""
    assert "job.json" in mistakes(tmp_path, text)


def test_missing_file(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(SpecError, match="no such file"):
        specfile.load(tmp_path / "none.json")


def test_set_changes_fields_and_makes_parts(tmp_path: Path) -> None:
    """Values are JSON, or plain text; a part that was null comes into being."""
    loaded = specfile.load(
        write(tmp_path, {"name": "x"}),
        ["training.epochs=2", "name=y", "augmentation.flip=horizontal"],
    )
    assert (loaded.training.epochs, loaded.name) == (2, "y")
    assert loaded.augmentation is not None
    assert loaded.augmentation.flip == "horizontal"


def test_epochs_that_phases_would_override_are_refused(tmp_path: Path) -> None:
    """With what to give instead; an effective spec, as `validate` prints it, is a spec."""
    raw: dict[str, Any] = {"name": "x", "training": {"phases": [{"epochs": 3}, {}]}}
    for change in ("training.epochs=2", f"training.epochs={specparts.Training().epochs}"):
        assert "--set training.phases.0.epochs=1" in mistakes(tmp_path, raw, change)
    assert "sweep[0]" in mistakes(tmp_path, {**raw, "sweep": [{"training.epochs": 2}]})
    loaded = specfile.load(write(tmp_path, raw), ["training.phases.1.epochs=2"])
    assert [phase.epochs for phase in loaded.training.phases or ()] == [3, 2]
    assert specfile.load(write(tmp_path, loaded.effective())) == loaded
    assert specfile.load(write(tmp_path, raw), ["training.phases=null", "training.epochs=2"])


def test_an_entry_that_a_list_lacks_is_refused(tmp_path: Path) -> None:
    raw = {"name": "x", "training": {"phases": [{}]}}
    for step in ("1", "-1", "first"):
        text = mistakes(tmp_path, raw, f"training.phases.{step}.epochs=2")
        assert f"{step} is no entry of this list of 1; the first is 0" in text


@pytest.mark.parametrize("change", ["training.epochs", "=1", "training..epochs=1"])
def test_set_without_key_or_value(tmp_path: Path, change: str) -> None:
    """The form is shown."""
    assert "expected key=value" in mistakes(tmp_path, {"name": "x"}, change)


def test_effective_spec_shows_every_default_and_is_a_fixed_point(tmp_path: Path) -> None:
    """What validate prints is itself a spec, and the same one."""
    effective = specfile.load(write(tmp_path, {"name": "x"})).effective()
    assert (
        effective["model"]["arguments"].keys()
        == registry.parameters(registry.get("models", "myinception"), "models").keys()
    )
    assert spec.parse(effective, source="again").effective() == effective


def test_relative_data_path_is_relative_to_the_file_and_to_the_folder_in_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And absolute from then on, so that every folder of this machine reads the same file."""
    path = write(tmp_path, {"name": "x", "data": {"name": "cifar100", "path": "a.npz"}})
    assert specfile.load(path).data.path == str(tmp_path / "a.npz")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert specfile.load(path, ["data.path=b.npz"]).data.path == str(tmp_path / "deep" / "b.npz")
    assert specfile.load(path, ["data.path=gs://b/c.npz"]).data.path == "gs://b/c.npz"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_validate_and_name_themselves(path: Path) -> None:
    """Each ready job is valid, described, and named as its file."""
    loaded = specfile.load(path)
    assert loaded.name == path.stem
    assert loaded.description
    assert '"$schema": "./.schema.json"' in path.read_text()


def test_the_committed_schema_is_the_current_one() -> None:
    """`make schema` writes it."""
    schema = Path(__file__).parent.parent / "jobs" / ".schema.json"
    assert json.loads(schema.read_text(encoding="utf-8")) == spec.json_schema()


def test_a_sweep_is_one_job_for_each_variant(tmp_path: Path) -> None:
    """Names are counted where none is given; the rest of the file is common."""
    path = tmp_path / "rates.json"
    variants = [{"optimizer.learning_rate": 0.1}, {"name": "slow", "optimizer.learning_rate": 1e-4}]
    path.write_text(json.dumps({"name": "rates", "seed": 4, "sweep": variants}))
    first, second = specfile.load_all(path, ["training.epochs=3"])
    assert (first.name, second.name) == ("rates-1", "slow")
    assert (first.optimizer.learning_rate, second.optimizer.learning_rate) == (0.1, 1e-4)
    assert {(one.seed, one.training.epochs) for one in (first, second)} == {(4, 3)}


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ([], "expected a list of objects"),
        ({"a": 1}, "expected a list of objects"),
        ([{"optimizer.learning_rat": 1}], "sweep[0]: 1 mistake"),
        ([{"training.epochs": 0}, {"training.epochs": -1}], "received -1"),
        ([{"training.epochs": 0}, {}, {"training.epochs": 0}], "sweep[0] and 1 more entry: 1 mis"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_told(tmp_path: Path, sweep: Any, words: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"name": "rates", "sweep": sweep}))
    with pytest.raises(SpecError) as caught:
        specfile.load_all(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", optimizers.ARGUMENTS)
def test_optimizer_arguments_are_known_without_keras(name: str) -> None:
    """They are those of its signature."""
    import inspect

    import keras

    classes = {key.lower(): value for key, value in vars(keras.optimizers).items()}
    signature = inspect.signature(classes[name].__init__).parameters
    known = set(signature) - {"self", "learning_rate", "name", "kwargs"}
    assert optimizers.arguments(name) >= known
    if tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 13):
        assert optimizers.arguments(name) == known  # some are new


def test_a_wrong_optimizer_argument_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"name": "a", "optimizer": {"arguments": {"beta1": 0.8}}}))
    with pytest.raises(SpecError, match=r"no such argument. Did you mean 'opt.*\.beta_1'\?"):
        specfile.load(path)
