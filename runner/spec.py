"""A job is a typed spec: what cannot work is refused before anything is stored.

`parse` reports all mistakes at once, each with the field, what was given, what is known and
the nearest name. Every default is a field here, so the effective spec shows the whole run.
`specfile` reads specs from files.
"""

import functools
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from runner import mistakes, optimizers, registry
from runner.errors import NotFoundError, SpecError
from runner.specparts import (
    MONITORS,
    Augmentation,
    Budget,
    Checkpoint,
    Data,
    Evaluation,
    From,
    Limits,
    Model,
    Name,
    Optimizer,
    Part,
    Program,
    Report,
    Requirements,
    Tracker,
    Training,
)


class JobSpec(Part):
    """One job: what to train, on what, and how it is evaluated."""

    schema_: str | None = Field(None, alias="$schema", description="for editors; not used")
    name: Name = Field(description="the job's id: lower-case letters, digits, '.', '_' and '-'")
    description: str = Field("", max_length=1000)
    seed: int = Field(0, ge=0, lt=2**31, description="of initial weights, order and augmentation")
    program: Program | None = Field(None, description="a training of one's own, not of images")
    data: Data = Field(default_factory=Data)
    augmentation: Augmentation | None = None
    model: Model = Field(default_factory=Model)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    training: Training = Field(default_factory=Training)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    evaluation: Evaluation | None = Field(default_factory=Evaluation)
    retries: int = Field(2, ge=0, le=100, description="tries after failures of the job's own")
    priority: int = Field(
        0, ge=-1_000_000, le=1_000_000, description="higher goes first, of equals the older"
    )
    after: tuple[Name, ...] = Field(
        (), max_length=100, description="jobs that must have succeeded before this one begins"
    )
    requirements: Requirements = Field(default_factory=Requirements)
    budget: Budget = Field(default_factory=Budget)
    limits: Limits = Field(default_factory=Limits)
    report: Report = Field(default_factory=Report)
    trackers: tuple[Tracker, ...] = Field(
        (),
        description="where the metrics of committed epochs are mirrored; addresses and keys are"
        " taken from the worker's environment",
    )
    log_model: bool = Field(
        False,
        description="whether MLflow and W&B get the final model, as `runner export` writes it",
    )
    from_: From | None = Field(
        None, alias="from", description="go on from another job, or begin with weights"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        wrong = []
        if self.name in self.after:
            wrong.append(f"after: {self.name!r} is this job itself, and would wait for ever")
        wrong += self._beside_program() if self.program else self._without_validation()
        evaluation = self.evaluation
        if evaluation and evaluation.checkpoint == "best" and self.checkpoint.best is None:
            wrong.append(
                "evaluation.checkpoint is 'best', but checkpoint.best is null:"
                ' set checkpoint.best to {"monitor": "val_top_1"}'
            )
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    @property
    def monitors(self) -> dict[str, str]:
        """The metrics that decide over something, by field."""
        parts = {place: getattr(getattr(self, place[0]), place[1]) for place in _MONITORING}
        return {".".join((*at, "monitor")): part.monitor for at, part in parts.items() if part}

    def _without_validation(self) -> list[str]:
        return [
            f"{where} is {monitor!r}, but data.validation_split is 0:"
            f" monitor {monitor.removeprefix('val_')!r} or hold images out"
            for where, monitor in self.monitors.items()
            if monitor.startswith("val_") and self.data.validation_split == 0
        ]

    def _beside_program(self) -> list[str]:
        """What the program decides, and the spec sets too."""
        return [
            f"{'.'.join((*part, name))} is set, but the program decides it: leave it out of the"
            f" spec{_INSTEAD.get(name, '')}"
            for part, names in _OF_IMAGES.items()
            for name in sorted(names & _set_in(self, part))
        ]

    def effective(self, *, later: bool = False) -> dict[str, Any]:
        """The whole spec as plain JSON, every default that counts written out.

        Args:
            later: with the defaults of fields that came later, which a stored spec leaves out.
        """
        whole = self.model_dump(mode="json", exclude={"schema_"}, by_alias=True)
        for (*place, name), value in _LATER.items():  # which earlier versions do not know
            part = _at(whole, place)
            if part and part[name] == value and not (later and name != "given"):
                del part[name]
        for where, names in _OF_IMAGES.items() if self.program else ():
            part = _at(whole, where)
            for name in names if part else ():
                part.pop(name)
        return whole


#: the parts that follow a metric
_MONITORING = (
    ("training", "early_stopping"),
    ("training", "reduce_lr_on_plateau"),
    ("checkpoint", "best"),
)

#: fields that came later, and their defaults: a spec without them is the same as before
_LATER: dict[tuple[str, ...], Any] = {
    ("program", "given"): None,
    ("program",): None,
    ("from", "given"): None,
    ("from",): None,
    ("data", "given"): None,
    ("report",): {"publish": False},
    ("trackers",): [],
    ("log_model",): False,
    ("training", "devices"): 1,
    ("requirements", "devices"): None,
    ("training", "early_stopping", "mode"): "auto",
    ("training", "reduce_lr_on_plateau", "mode"): "auto",
}

#: what a program decides by itself: the fields of the job and of its parts
_OF_IMAGES: dict[tuple[str, ...], frozenset[str]] = {
    ("training",): frozenset(
        {"phases", "batch_size", "steps_per_execution", "jit_compile", "dtype_policy"}
    ),
    ("evaluation",): frozenset({"augmented_passes", "augmentation", "batch_size"}),
    (): frozenset({"data", "augmentation", "model", "optimizer"}),
}
#: an accuracy, as Keras may call it, by the name that images are measured by
_as_ours = functools.partial(re.sub, r"^(val_)?(\w+_)?acc(uracy)?$", r"\1top_1")
_COMPILED = " and give it to model.compile in the program"
_INSTEAD = {
    "batch_size": ", or make it an argument of the program",
    "dtype_policy": " and set it in the program: keras.config.set_dtype_policy",
    "jit_compile": _COMPILED,
    "optimizer": _COMPILED,
    "phases": ". It is for images: make each phase a job that begins with the weights of the one"
    ' before ("from": {"job": NAME, "take": "weights"}), and what differs an argument',
    "steps_per_execution": _COMPILED,
}


def _at(whole: Any, place: Iterable[str]) -> Any:
    """The part of a plain spec, which may be wrong; None where it has none."""
    for step in place:
        whole = whole.get(step) if isinstance(whole, Mapping) else None
    return whole


def _unknown_monitors(raw: Mapping[str, Any]) -> list[str]:
    """What images are not measured by, in a spec that may be wrong in other ways."""
    given = {".".join(at): _at(raw, at) for at in ((*part, "monitor") for part in _MONITORING)}
    return [
        f"{where}: received {mistakes.short(monitor)}; expected one of {', '.join(MONITORS)}."
        f"{registry.nearest(_as_ours(monitor), MONITORS)}"
        for where, monitor in given.items()
        if isinstance(monitor, str) and monitor not in MONITORS
    ]


def _set_in(spec: BaseModel, place: tuple[str, ...]) -> set[str]:
    """The fields of a part that a spec sets itself."""
    part: Any = spec
    for step in place:
        part = getattr(part, step)
    return part.model_fields_set if part is not None else set()


def parse(raw: Mapping[str, Any], *, source: str, known: Iterable[str] = ()) -> JobSpec:
    """Check a spec that was read from somewhere.

    Args:
        raw: what was read.
        source: names it in errors.
        known: mistakes in it that were found already.
    """
    spec, found = None, list(known)
    try:
        spec = JobSpec.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        found += mistakes.explain(error, JobSpec, raw)
        found += _misfits(mistakes.without(raw, error)) if _in_fields(error) else []
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"{source}: {error}") from None
    kinds = registry.kinds_of(raw)
    arguments = {
        part: _with_defaults(kind, raw.get(part, {}), _DEFAULTS.get(part, ""), part, found)
        for part, kind in kinds.items()
    }
    if raw.get("program") is None:
        found += _unknown_monitors(raw)
        with suppress(ValidationError):  # which the spec's own check has told
            optimizer = Optimizer.model_validate_json(json.dumps(raw.get("optimizer", {})))
            found += optimizers.mistakes(optimizer.name, optimizer.arguments)
    if spec is None or found:
        wrong = SpecError(mistakes.report(source, found))
        wrong.data = [(source, one) for one in _data_alone(raw, found)]
        raise wrong
    parts = {
        part: getattr(spec, part).model_copy(update={"arguments": arguments[part]})
        for part in kinds
    }
    return spec.model_copy(update=parts)


def _in_fields(error: ValidationError) -> bool:
    return any(one["loc"] for one in error.errors())


def _misfits(rest: Mapping[str, Any]) -> list[str]:
    """How the fields that are right do not fit together: pydantic compares no others."""
    try:
        JobSpec.model_validate_json(json.dumps({"name": "-", **rest}))
    except ValidationError as error:
        return [] if _in_fields(error) else mistakes.explain(error, JobSpec, rest)
    return []


def _data_alone(raw: Mapping[str, Any], found: list[str]) -> list[JobSpec]:
    """A spec of the same data, where nothing that is wrong decides whether they can be used."""
    of_data = ("the spec", "data", "seed", "training.batch_size")
    if raw.get("program") is not None or any(one.startswith(of_data) for one in found):
        return []
    kept = {"name": "data", **{name: raw[name] for name in ("data", "seed") if name in raw}}
    if size := _at(raw, ("training", "batch_size")):
        kept["training"] = {"batch_size": size}
    return [JobSpec.model_validate_json(json.dumps(kept))]


_DEFAULTS = {"data": Data().name, "model": Model().name}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec, with the known models and datasets for editors."""
    schema = JobSpec.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    definitions["Model"]["properties"]["name"]["examples"] = registry.names("models")
    definitions["Data"]["properties"]["name"]["examples"] = registry.names("datasets")
    definitions["Program"]["properties"]["name"]["examples"] = registry.names("programs")
    definitions["Optimizer"]["properties"]["name"]["enum"] = list(optimizers.ARGUMENTS)
    schema["properties"]["sweep"] = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object"},
        "description": "one job for each: the rest of the file with these changes, given by path,"
        ' such as {"name": "wide", "model.arguments.width": 2.0}',
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


_PREFIX = "argument_"  #: of a parameter's name, which may be that of a method: "copy"
_CONFIG = ConfigDict(
    extra="forbid",
    strict=True,
    allow_inf_nan=False,
    ser_json_inf_nan="constants",
    alias_generator=lambda name: name.removeprefix(_PREFIX),
)
_NUMBERS = (int, float, FieldInfo)  #: of defaults, which become what the annotation says


@functools.cache
def _arguments_model(
    function: Callable[..., Any], kind: registry.Kind
) -> tuple[type[BaseModel], dict[str, Any]]:
    """Return what checks an entry's arguments, and the defaults that a spec can show, as JSON.

    Made once, since many jobs share it. A spec shows a default that it could give, too.
    """
    fields, shown = {}, dict[str, Any]()
    for key, parameter in registry.parameters(function, kind).items():
        of, default = parameter.annotation, parameter.default
        required = default is inspect.Parameter.empty
        field = (Any if of is inspect.Parameter.empty else of, ... if required else default)
        try:
            checks = _model(function, {key: field})
            understood = checks.__pydantic_complete__
        except Exception:  # noqa: BLE001 - an annotation may be anything
            understood = False
        if not understood:  # such as a class of the user's own
            field = (Any, field[1])
            checks = _model(function, {key: field})
        with suppress(Exception):  # a default may be anything, too
            plain = checks().model_dump(mode="json", by_alias=True, warnings=False)
            checks.model_validate_json(json.dumps(plain, allow_nan=False))
            shown |= {} if _is_unordered(default) else plain
        fields[key] = field if required or key in shown else (field[0], None)
    return _model(function, fields), shown


def _model(function: Callable[..., Any], fields: Mapping[str, Any]) -> type[BaseModel]:
    named: dict[str, Any] = {f"{_PREFIX}{key}": field for key, field in fields.items()}
    module = getattr(function, "__module__", __name__)  # where annotations that are texts hold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return create_model("arguments", __config__=_CONFIG, __module__=module, **named)


def _with_defaults(
    kind: registry.Kind, given: Any, default: str, part: str, found: list[str]
) -> dict[str, Any]:
    """Check an entry's arguments against its signature; fill in the defaults that JSON can hold.

    Args:
        kind: of the entry.
        given: that part of the spec, which may be wrong in other ways.
        default: name of the entry where the spec names none.
        part: its name.
        found: takes the mistakes.
    """
    name, arguments = (
        (given.get("name", default), given.get("arguments", {}))
        if isinstance(given, Mapping)
        else (None, None)
    )
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return {}  # which the spec's own check has told
    try:
        function = registry.get(kind, name)
        parameters = registry.parameters(function, kind)
        checked, shown = _arguments_model(function, kind)
        arguments = _named(function, arguments, part, found)
        values = checked.model_validate_json(json.dumps(arguments))
    except NotFoundError as error:
        found.append(f"{part}.name: {error}")
        return {}
    except ValidationError as error:
        prefix, known = (part, "arguments"), [*parameters]
        found += [mistakes.sentence(prefix, detail, known) for detail in error.errors()]
        return {}
    unordered = [key for key in arguments if _is_unordered(getattr(values, f"{_PREFIX}{key}"))]
    found += [f"{part}.arguments.{key}: {_UNORDERED}" for key in unordered]
    plain = shown | values.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {key: plain[key] for key in parameters if key in plain}


_UNORDERED = (
    "a set of other things than whole numbers has another order in each process:"
    " let the function take a tuple, such as tuple[str, ...]"
)


def _named(
    function: Callable[..., Any], arguments: Mapping[str, Any], part: str, found: list[str]
) -> dict[str, Any]:
    """Return the arguments but those that can't be given by name, which are mistakes."""
    unnamed = registry.unnamed(function) & arguments.keys()
    found += [f"{part}.arguments.{key}: {registry.UNNAMED}" for key in sorted(unnamed)]
    return {key: value for key, value in arguments.items() if key not in unnamed}


def _is_unordered(value: Any) -> bool:
    """Whether a set is in it that each process has in another order."""
    if isinstance(value, set | frozenset):
        return bool({*map(type, value)} - {int})
    inner = value.values() if isinstance(value, dict) else value
    return isinstance(value, list | tuple | dict) and any(map(_is_unordered, inner))


def as_called(
    function: Callable[..., Any], kind: registry.Kind, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what an entry's function is called with, for the arguments of a checked spec.

    Each is of the type that the function names. A default that JSON has in another form, such as
    a tuple, is left to the function.
    """
    checked, shown = _arguments_model(function, kind)
    values = checked.model_validate_json(json.dumps(arguments))
    plain = values.model_dump(mode="json", by_alias=True, exclude_unset=True)
    called = {}
    for key, parameter in registry.parameters(function, kind).items():
        value, default = getattr(values, f"{_PREFIX}{key}"), parameter.default
        is_default = key in shown and json.dumps(plain.get(key)) == json.dumps(shown[key])
        other = type(value) is not type(default) or value != default
        if key in plain and not (is_default and other and type(default) not in _NUMBERS):
            called[key] = plain[key] if isinstance(value, Iterator) else value
    return called
