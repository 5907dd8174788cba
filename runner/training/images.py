"""The program for images: a spec's data, model, augmentation and optimizer, from uint8 pixels."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from runner.datasets.arrays import Dataset, kept
from runner.errors import StoreError
from runner.spec import JobSpec
from runner.specparts import Phase
from runner.training import backends
from runner.training.assemble import Assembled
from runner.training.build import build, compile_phase
from runner.training.check import check_fit, load_data, obtaining
from runner.training.program import Program

if TYPE_CHECKING:
    from runner.training.data import Batches

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ImageProgram(Program):
    """Images to the probabilities of their classes."""

    spec: JobSpec
    assembled: Assembled
    test: tuple[NDArray[Any], NDArray[Any]] | None  #: images and labels; None while it trains

    def __post_init__(self) -> None:
        """Nothing is to be checked: all of it is made here."""

    def load_first_weights(self) -> list[str]:
        """Load pretrained weights: part of checkpoint 0, so no later attempt needs them.

        A network whose output is no probabilities is said here, once for each job.
        """
        doubts = list(filter(None, [self.assembled.doubt]))
        for doubt in doubts:
            logger.warning(doubt)
        if self.assembled.pretrained is None:
            return doubts
        with obtaining(StoreError):
            weights = self.assembled.pretrained()
        words = ", ".join(f"{key} {value}" for key, value in weights.items())
        return [*doubts, f"began with {words}"]

    def begin_phase(self, phase: Phase | None) -> None:
        """Set what trains, with a new optimizer."""
        with backends.current().scope(self.model):
            compile_phase(self.assembled, self.spec, phase)


def program(spec: JobSpec, *, training: bool = True, devices: int = 1) -> ImageProgram:
    """Load the spec's data, and build its model; what is not needed of the data is freed.

    Args:
        spec: of images.
        training: with the training images, else with the test images.
        devices: that the model is trained on.

    Raises:
        SpecError: spec, data and model don't fit.
        MissingHereError: the data can't be had here and now.
    """
    dataset = load_checked(spec)
    with obtaining(StoreError):
        assembled = build(spec, dataset, devices=devices)
    return ImageProgram(
        model=assembled.model,
        fit=_batches(spec, dataset) if training else {},
        evaluate={},
        classes=dataset.class_names,
        spec=spec,
        assembled=assembled,
        test=None if training else (kept(dataset.x_test), dataset.y_test),
    )


def load_checked(spec: JobSpec) -> Dataset:
    """Load the spec's data and check that spec and data fit.

    Raises:
        SpecError: they don't, or the data cannot be used.
        MissingHereError: the data can't be had here and now.
    """
    with obtaining(StoreError):
        dataset = load_data(spec)
    check_fit(spec, dataset)
    if dataset.left_out:
        logger.info("%s: left out: %s", dataset.source, dataset.left_out)
    return dataset


def _batches(spec: JobSpec, dataset: Dataset) -> "dict[str, Batches]":
    """Return the data to train and to validate with, which share one copy of the images."""
    from runner.training.data import Batches, Held

    split = dataset.split(spec.data.validation_split, seed=spec.seed)
    held = Held((dataset.x_train, dataset.y_train), own=True)
    size = spec.training.batch_size
    train = Batches.of_rows(
        held, split.train, batch_size=size, seed=spec.seed, repeat=spec.data.repeat
    )
    if not len(split.validation):
        return {"x": train}
    rows = split.validation
    validation = Batches.of_rows(held, rows, batch_size=size, seed=spec.seed, shuffle=False)
    return {"x": train, "validation_data": validation}
