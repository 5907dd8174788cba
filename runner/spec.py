"""A job is a typed spec: what cannot work is refused before anything is stored.

`parse` reports all mistakes at once, each with the field, what was given, what is known and
the nearest name. Every default is a field here, so the effective spec shows the whole run.
`specfile` reads specs from files.
"""

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from runner import mistakes, optimizers, registry
from runner.checkpoint.policy import parse as parse_interval
from runner.errors import NotFoundError, SpecError


def seconds(duration: Any) -> float:
    """`30s`, `10m` or `11h` in seconds.

    Raises:
        ValueError: it is no such text, or zero.
    """
    with suppress(SpecError):
        if isinstance(duration, str) and (found := parse_interval(duration).seconds) < math.inf:
            return found
    msg = f"received {duration!r}; expected a duration such as '30s', '10m' or '11h'"
    raise ValueError(msg)


def _check_duration(value: Any) -> Any:
    seconds(value)
    return value


def _check_every(value: Any) -> Any:
    try:
        if str(value).strip() != "auto":
            parse_interval(str(value))
    except SpecError as error:
        msg = f"received {value!r}; expected '30s', '200 steps', '1 epoch' or 'auto'"
        raise ValueError(msg) from error
    return value


def _check_optimizer(value: Any) -> Any:
    if isinstance(value, str) and value not in optimizers.ARGUMENTS:
        hint = registry.nearest(value.lower(), optimizers.ARGUMENTS)
        msg = f"optimizer {value!r} is unknown.{hint} Known: {', '.join(optimizers.ARGUMENTS)}"
        raise ValueError(msg)
    return value


Duration = Annotated[str, BeforeValidator(_check_duration)]
MONITORS = ("loss", "top_1", "top_5", "val_loss", "val_top_1", "val_top_5")  #: of image jobs
Monitor = Annotated[str, Field(min_length=1, max_length=200)]
Mode = Literal["auto", "min", "max"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
Label = Annotated[str, Field(pattern=LABEL)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Data(_Part):
    """Which images, and how they are divided."""

    name: str = Field("digits", description="an entry of runner/datasets")
    path: str | None = Field(
        None, description="file or URL to read from; null for the dataset's own source"
    )
    given: str | None = Field(
        None,
        description="a relative path, as seen from the folder of `submit`: where a machine has no"
        " `path`, this is looked for in its worker's folder",
    )
    validation_split: Fraction = Field(
        0.2, description="share of the training images held out, before any repeat"
    )
    repeat: int = Field(1, ge=1, le=1000, description="passes over the training part per epoch")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="the dataset's own parameters"
    )


class Augmentation(_Part):
    """Random changes of the training images, as layers inside the model."""

    flip: Literal["horizontal", "vertical", "horizontal_and_vertical"] | None = Field(
        "horizontal_and_vertical", description="mirror axes; null for none"
    )
    rotation: float = Field(0.2, ge=0, le=1, description="up to this share of a full turn")
    zoom: float = Field(0.2, ge=0, lt=1, description="in or out by up to this share")


class Model(_Part):
    """The network."""

    name: str = Field("myinception", description="an entry of runner/models")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="the model's own parameters"
    )


class Program(_Part):
    """A training of the user's own, instead of data, model, augmentation and optimizer."""

    name: str = Field(description="an entry of programs/ in the folder of --code")
    path: str | None = Field(None, description="file or URL, for a program that asks for a path")
    given: str | None = Field(None, description="a relative path; see data.given")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="the program's own parameters"
    )


class Optimizer(_Part):
    """A Keras optimizer by name, with its own arguments."""

    name: Annotated[str, BeforeValidator(_check_optimizer)] = Field(
        "adam", description=f"one of {', '.join(optimizers.ARGUMENTS)}"
    )
    learning_rate: float = Field(1e-3, gt=0, description="step size at the start")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the Keras class"
    )


class EarlyStopping(_Part):
    """End the training when the monitored metric stops improving (Keras's callback)."""

    monitor: Monitor = "val_top_1"
    mode: Mode = Field("auto", description="whether lower or higher is better")
    patience: int = Field(10, ge=0, description="epochs without improvement")
    min_delta: float = Field(0.0, ge=0, description="smaller changes are no improvement")
    restore_best_weights: bool = True


class ReduceLROnPlateau(_Part):
    """Lower the learning rate when the monitored metric stops improving (Keras's callback)."""

    monitor: Monitor = "val_loss"
    mode: Mode = Field("auto", description="whether lower or higher is better")
    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(10, ge=0, description="epochs without improvement")
    min_delta: float = Field(1e-4, ge=0)
    cooldown: int = Field(0, ge=0)
    min_learning_rate: float = Field(0.0, ge=0)


class Phase(_Part):
    """A part of the training with its own trainable layers and learning rate."""

    epochs: int = Field(10, ge=1, le=1_000_000, description="passes in this phase at most")
    train_from: int = Field(
        0,
        ge=-100_000,
        le=100_000,
        description="layers of the network before this number keep their weights and statistics;"
        " a negative number counts from the end",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="null for the optimizer's; its slots begin anew in each phase"
    )


class Training(_Part):
    """How long and with what numerics."""

    epochs: int = Field(
        10, ge=1, le=1_000_000, description="passes over the training images at most"
    )
    phases: tuple[Phase, ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="one after the other, instead of `epochs` in one; callbacks begin anew in each",
    )
    batch_size: int = Field(64, ge=1, le=10_000_000, description="images per optimizer update")
    early_stopping: EarlyStopping | None = None
    reduce_lr_on_plateau: ReduceLROnPlateau | None = None
    terminate_on_nan: bool = Field(True, description="end at the first loss that is no number")
    tensorboard: bool = Field(
        False, description="event files beside the checkpoints, in the job's folder `tensorboard`"
    )
    steps_per_execution: int = Field(
        1, ge=1, le=10_000, description="updates per call into the graph"
    )
    jit_compile: bool | Literal["auto"] = Field("auto", description="compile the step with XLA")
    dtype_policy: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    deterministic: bool = Field(
        True, description="deterministic operations only; false is faster and not repeatable"
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="intra-op threads; null: the first machine's cores, kept from then on",
    )


class Best(_Part):
    """Keep the checkpoint of the best epoch beside the latest."""

    monitor: Monitor = "val_top_1"
    mode: Mode = "auto"


class Checkpoint(_Part):
    """When the whole state is saved, and what is kept."""

    every: Annotated[str, BeforeValidator(_check_every)] = Field(
        "30s",
        description="'30s', '200 steps', '1 epoch', or 'auto': from what a checkpoint costs and how"
        " often this job is interrupted",
    )
    max_loss: Duration = Field(
        "10m", description="pause rather than run longer than this without a commit"
    )
    keep: int = Field(2, ge=1, le=100, description="latest checkpoints kept")
    best: Best | None = None


class Evaluation(_Part):
    """What is measured on the test images when the training has ended."""

    checkpoint: Literal["final", "best"] = "final"
    augmented_passes: int = Field(
        10, ge=0, le=1000, description="passes through the augmentation (none without one)"
    )
    augmentation: Augmentation | None = Field(
        None, description="of these passes; null for the one that the model was trained with"
    )
    batch_size: int = Field(256, ge=1, le=10_000_000)


class Requirements(_Part):
    """What a machine must have to take up the job; others leave it in the queue and say so."""

    gpu_memory_gb: float | None = Field(
        None, gt=0, le=100_000, description="of the machine's largest GPU; null: none needed"
    )
    labels: tuple[Label, ...] = Field(
        (), max_length=20, description="of the machine, as `runner work --label` gives them"
    )


class Budget(_Part):
    """Work after which the job is held, with its state saved; `runner unhold` gives it again."""

    gpu_hours: float | None = Field(
        None, gt=0, le=1e6, description="hours of each GPU of the machines; null: no limit"
    )
    hours: float | None = Field(
        None, gt=0, le=1e6, description="hours of work on any machine; null: no limit"
    )


class Limits(_Part):
    """When a job that does not get on is given up."""

    stalled: Duration | None = Field(
        "30m",
        description="end an attempt that shows no progress for so long, and count a failure;"
        " null: never",
    )
    deaths: int = Field(
        3, ge=1, le=1_000_000, description="hold the job when so many workers died at one step"
    )
    backoff: Duration = Field(
        "10s", description="wait so long before the first retry, twice as long before each other"
    )


class JobSpec(_Part):
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

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        wrong = []
        if self.name in self.after:
            wrong.append(f"after: {self.name!r} is this job itself, and would wait for ever")
        wrong += self._beside_program() if self.program else self._unknown_monitors()
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
        parts = {
            "training.early_stopping": self.training.early_stopping,
            "training.reduce_lr_on_plateau": self.training.reduce_lr_on_plateau,
            "checkpoint.best": self.checkpoint.best,
        }
        return {f"{where}.monitor": part.monitor for where, part in parts.items() if part}

    def _unknown_monitors(self) -> list[str]:
        known = [one for one in MONITORS if self.data.validation_split or "val_" not in one]
        wrong = []
        for where, monitor in self.monitors.items():
            if monitor in known:
                continue
            if monitor in MONITORS:
                wrong.append(
                    f"{where} is {monitor!r}, but data.validation_split is 0:"
                    f" monitor {monitor.removeprefix('val_')!r} or hold images out"
                )
            else:
                hint = registry.nearest(monitor, known)
                wrong.append(f"{where}: received {monitor!r}; known: {', '.join(known)}.{hint}")
        return wrong

    def _beside_program(self) -> list[str]:
        """What the program decides, and the spec sets too."""
        return [
            f"{'.'.join((*part, name))} is set, but the program decides it: leave it out of the"
            f" spec{_AS_ARGUMENT.get(name, '')}"
            for part, names in _OF_IMAGES.items()
            for name in sorted(names & _set_in(self, part))
        ]

    def effective(self) -> dict[str, Any]:
        """The whole spec as plain JSON, every default that counts written out."""
        whole = self.model_dump(mode="json", exclude={"schema_"})
        for (*place, name), value in _LATER.items():  # which earlier versions do not know
            part = _at(whole, place)
            if part and part[name] == value:
                del part[name]
        for where, names in _OF_IMAGES.items() if self.program else ():
            part = _at(whole, where)
            for name in names if part else ():
                part.pop(name)
        return whole


#: fields that came later, and their defaults: a spec without them is the same as before
_LATER: dict[tuple[str, ...], Any] = {
    ("program", "given"): None,
    ("program",): None,
    ("data", "given"): None,
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
_AS_ARGUMENT = {"batch_size": ", or make it an argument of the program"}


def _at(whole: Any, place: Iterable[str]) -> Any:
    """The part of a plain spec; None where it has none."""
    for step in place:
        whole = whole and whole[step]
    return whole


def _set_in(spec: BaseModel, place: tuple[str, ...]) -> set[str]:
    """The fields of a part that a spec sets itself."""
    part: Any = spec
    for step in place:
        part = getattr(part, step)
    return part.model_fields_set if part is not None else set()


def parse(raw: Mapping[str, Any], *, source: str) -> JobSpec:
    """Check a spec that was read from somewhere; `source` names it in errors."""
    spec, found = None, list[str]()
    try:
        spec = JobSpec.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        found += mistakes.explain(error, JobSpec, raw)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"{source}: {error}"
        raise SpecError(msg) from None
    kinds = registry.kinds_of(raw)
    arguments = {
        part: _with_defaults(kind, raw.get(part, {}), _DEFAULTS.get(part, ""), part, found)
        for part, kind in kinds.items()
    }
    if spec is not None and spec.program is None:
        found += optimizers.mistakes(spec.optimizer.name, spec.optimizer.arguments)
    if spec is None or found:
        raise SpecError(mistakes.report(source, found))
    parts = {
        part: getattr(spec, part).model_copy(update={"arguments": arguments[part]})
        for part in kinds
    }
    return spec.model_copy(update=parts)


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


@functools.cache
def _arguments_model(function: Callable[..., Any], kind: registry.Kind) -> type[BaseModel]:
    """Return what checks an entry's arguments: made once, since many jobs share it."""
    fields: dict[str, Any] = {
        key: (
            Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation,
            ... if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for key, parameter in registry.parameters(function, kind).items()
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model("arguments", __config__=config, **fields)


def _with_defaults(
    kind: registry.Kind, given: Any, default: str, part: str, found: list[str]
) -> dict[str, Any]:
    """Check an entry's arguments against its signature; fill in what was left out.

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
        checked = _arguments_model(registry.get(kind, name), kind)
        values = checked.model_validate_json(json.dumps(arguments))
    except NotFoundError as error:
        found.append(f"{part}.name: {error}")
        return {}
    except ValidationError as error:
        prefix, known = (part, "arguments"), list(checked.model_fields)
        found += [mistakes.sentence(prefix, detail, known) for detail in error.errors()]
        return {}
    dumped: dict[str, Any] = values.model_dump(mode="json")
    return dumped
