"""The parts of a job's spec: each field with its type, bounds, default and meaning."""

import math
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from runner import optimizers, registry
from runner.checkpoint.policy import parse as parse_interval
from runner.errors import SpecError


def seconds(duration: Any) -> float:
    """`30s`, `10m` or `11h` in seconds.

    Raises:
        ValueError: it is no such text, or zero.
    """
    with suppress(SpecError):
        if isinstance(duration, str) and (found := parse_interval(duration).seconds) < math.inf:
            return found
    raise ValueError(f"received {duration!r}; expected a duration such as '30s', '10m' or '11h'")


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


def _check_devices(value: Any) -> Any:
    if value == "all" or (type(value) is int and 1 <= value <= 1024):
        return value
    raise ValueError(f"received {value!r}; expected 'all' or a number from 1 to 1024")


def _check_checkpoint(value: Any) -> Any:
    if value in ("final", "best", "latest") or (type(value) is int and value >= 0):
        return value
    msg = f"received {value!r}; expected 'final', 'best', 'latest' or the number of a step"
    raise ValueError(msg)


def _check_weights(value: Any) -> Any:
    if isinstance(value, str) and not value.endswith(WEIGHTS):
        msg = f"received {value!r}; expected a file that ends in {', '.join(WEIGHTS)}"
        raise ValueError(msg)
    return value


def _check_optimizer(value: Any) -> Any:
    if isinstance(value, str) and value not in optimizers.ARGUMENTS:
        hint = registry.nearest(value.lower(), optimizers.ARGUMENTS)
        msg = f"optimizer {value!r} is unknown.{hint} Known: {', '.join(optimizers.ARGUMENTS)}"
        raise ValueError(msg)
    return value


WEIGHTS = (".weights.h5", ".h5", ".keras")  #: how the names of files of weights end
Duration = Annotated[str, BeforeValidator(_check_duration)]
MONITORS = ("loss", "top_1", "top_5", "val_loss", "val_top_1", "val_top_5")  #: of image jobs
Monitor = Annotated[str, Field(min_length=1, max_length=200)]
Mode = Literal["auto", "min", "max"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
Label = Annotated[str, Field(pattern=LABEL)]
Tracker = Literal["tensorboard", "mlflow", "wandb"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    """A part of a spec: no unknown fields, no other types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Data(Part):
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


class Augmentation(Part):
    """Random changes of the training images, as layers inside the model."""

    flip: Literal["horizontal", "vertical", "horizontal_and_vertical"] | None = Field(
        "horizontal_and_vertical", description="mirror axes; null for none"
    )
    rotation: float = Field(0.2, ge=0, le=1, description="up to this share of a full turn")
    zoom: float = Field(0.2, ge=0, lt=1, description="in or out by up to this share")


class Model(Part):
    """The network."""

    name: str = Field("myinception", description="an entry of runner/models")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="the model's own parameters"
    )


class Program(Part):
    """A training of the user's own, instead of data, model, augmentation and optimizer."""

    name: str = Field(description="an entry of programs/ in the folder of --code")
    path: str | None = Field(None, description="file or URL, for a program that asks for a path")
    given: str | None = Field(None, description="a relative path; see data.given")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="the program's own parameters"
    )


class Optimizer(Part):
    """A Keras optimizer by name, with its own arguments."""

    name: Annotated[str, BeforeValidator(_check_optimizer)] = Field(
        "adam", description=f"one of {', '.join(optimizers.ARGUMENTS)}"
    )
    learning_rate: float = Field(1e-3, gt=0, description="step size at the start")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the Keras class"
    )


class EarlyStopping(Part):
    """End the training when the monitored metric stops improving (Keras's callback)."""

    monitor: Monitor = "val_top_1"
    mode: Mode = Field("auto", description="whether lower or higher is better")
    patience: int = Field(10, ge=0, description="epochs without improvement")
    min_delta: float = Field(0.0, ge=0, description="smaller changes are no improvement")
    restore_best_weights: bool = Field(
        True,
        description="end with the weights of the best epoch, also if all epochs were trained;"
        " Keras's own default is false",
    )


class ReduceLROnPlateau(Part):
    """Lower the learning rate when the monitored metric stops improving (Keras's callback)."""

    monitor: Monitor = "val_loss"
    mode: Mode = Field("auto", description="whether lower or higher is better")
    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(10, ge=0, description="epochs without improvement")
    min_delta: float = Field(1e-4, ge=0)
    cooldown: int = Field(0, ge=0)
    min_learning_rate: float = Field(0.0, ge=0)


class Phase(Part):
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


class Training(Part):
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
    devices: Annotated[Literal["all"] | int, BeforeValidator(_check_devices)] = Field(
        1,
        description="GPUs that divide each batch among them; 'all' that the worker has. A number is"
        " left to machines that have so many",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="intra-op threads; null: the first machine's cores, kept from then on",
    )


class Best(Part):
    """Keep the checkpoint of the best epoch beside the latest."""

    monitor: Monitor = "val_top_1"
    mode: Mode = "auto"


class Checkpoint(Part):
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


class Evaluation(Part):
    """What is measured on the test images when the training has ended."""

    checkpoint: Literal["final", "best"] = "final"
    augmented_passes: int = Field(
        10, ge=0, le=1000, description="passes through the augmentation (none without one)"
    )
    augmentation: Augmentation | None = Field(
        None, description="of these passes; null for the one that the model was trained with"
    )
    batch_size: int = Field(256, ge=1, le=10_000_000)


class From(Part):
    """What the training goes on from: another job's checkpoint, or weights in a file."""

    job: Name | None = Field(None, description="a job of the same store")
    checkpoint: Annotated[
        Literal["final", "best", "latest"] | Annotated[int, Field(ge=0)],
        BeforeValidator(_check_checkpoint),
    ] = Field("final", description="of that job; a number is the step of one that is kept")
    path: Annotated[str | None, BeforeValidator(_check_weights)] = Field(
        None, description="instead of a job: a .keras, .weights.h5 or .h5 file, or its URL"
    )
    given: str | None = Field(None, description="a relative path; see data.given")
    take: Literal["all", "weights"] = Field(
        "all",
        description="'all': the same training, further; 'weights': a new one that begins with the"
        " weights which fit. Of a file always 'weights'",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.job is None) == (self.path is None):
            raise ValueError('expected {"job": NAME} or {"path": FILE}, one of the two')
        return self


class Requirements(Part):
    """What a machine must have to take up the job; others leave it in the queue and say so."""

    gpu_memory_gb: float | None = Field(
        None, gt=0, le=100_000, description="of the machine's largest GPU; null: none needed"
    )
    devices: int | None = Field(
        None, ge=1, le=1024, description="GPUs of the worker at least; for training.devices 'all'"
    )
    labels: tuple[Label, ...] = Field(
        (), max_length=20, description="of the machine, as `runner work --label` gives them"
    )


class Budget(Part):
    """Work after which the job is held, with its state saved; `runner unhold` gives it again."""

    gpu_hours: float | None = Field(
        None, gt=0, le=1e6, description="hours of each GPU of the machines; null: no limit"
    )
    hours: float | None = Field(
        None, gt=0, le=1e6, description="hours of work on any machine; null: no limit"
    )


class Limits(Part):
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


class Report(Part):
    """What is shown to people while the job goes on."""

    publish: bool = Field(
        False,
        description="keep a page with the curves in the store, jobs/NAME/report/index.html:"
        " rewritten once a minute at most by the worker that trains",
    )
