"""The weights that a job begins with: loaded once, checked whole, their origin recorded."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blake3

from runner.errors import DataAwayError, DataError, SpecError
from runner.specparts import WEIGHTS
from runner.store import cache
from runner.store.places import DataPlace


class Pretrained:
    """Loads weights into a network when called, and says what they were."""

    def __init__(
        self,
        base: Any,
        weights: str,
        expected: str | None,
        imagenet: Callable[[], Any],
        *,
        field: str = "model.arguments.weights",
    ) -> None:
        """Remember what to load.

        Args:
            base: The Keras model that is to have the weights.
            weights: "imagenet", or a file or URL.
            expected: BLAKE3 of the file, if only that file will do.
            imagenet: Makes the same network with Keras's ImageNet weights.
            field: Of the spec, named in errors.
        """
        self._base = base
        self._weights = weights
        self._expected = expected
        self._imagenet = imagenet
        self._field = field

    def __call__(self) -> dict[str, str]:
        """Load the weights; return where they came from and the file's BLAKE3.

        Raises:
            DataError: the file is missing, not the expected one, or of another network.
            DataAwayError: the bucket or the download failed for now.
        """
        if self._weights == "imagenet":
            return self._downloaded()
        ending = next((end for end in WEIGHTS if self._weights.endswith(end)), None)
        if ending is None:
            msg = f"{self._field}: received '{self._weights}'; expected \"imagenet\""
            msg += f" or a file that ends in {', '.join(WEIGHTS)}."
            raise SpecError(msg)
        content = cache.view(DataPlace(self._weights, field=self._field))
        found = blake3.blake3(content).hexdigest()
        if self._expected not in (None, found):
            raise DataError(
                f"{self._weights} has the BLAKE3 {found}; expected {self._expected}."
                " Copy the right file there, or fix model.arguments.weights_blake3."
            )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"file{ending}"
            file.write_bytes(content)
            self._load(file)
        return {"weights": self._weights, "blake3": found}

    def _downloaded(self) -> dict[str, str]:
        import keras

        try:
            whole = self._imagenet()
        except Exception as error:  # Keras raises a bare Exception for a failed download
            raise DataAwayError(
                f"the ImageNet weights could not be downloaded: {error}."
                " Try again, or set model.arguments.weights to a file."
            ) from error
        _copy(whole, self._base, source="imagenet")
        return {"weights": "imagenet", "keras": keras.__version__}

    def _load(self, file: Path) -> None:
        import keras

        try:
            if file.suffix != ".keras":
                self._load_weights(file)
                return
            whole = keras.saving.load_model(file, compile=False, safe_mode=True)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise DataError(
                f"{self._weights} does not hold the weights of {self._base.name}: {error}"
                " Give the file of that network, saved without its top."
            ) from None
        _copy(whole, self._base, source=self._weights)

    def _load_weights(self, file: Path) -> None:
        import h5py  # Keras's own dependency

        with warnings.catch_warnings():
            # "layers will retain their freshly-initialized weights" is no success
            warnings.simplefilter("error", UserWarning)
            try:
                self._base.load_weights(file)
            except UserWarning:
                arrays: list[str] = []
                with h5py.File(file) as content:
                    content.visititems(
                        lambda name, item: (
                            arrays.append(name) if isinstance(item, h5py.Dataset) else None
                        )
                    )
                wanted = len(self._base.weights)
                msg = f"it holds {len(arrays)} arrays in other layers, the network has {wanted}."
                raise ValueError(msg) from None


def _copy(whole: Any, base: Any, *, source: str) -> None:
    """Copy the weights from the model, or from one inside it, that has the same ones."""
    wanted = [tuple(w.shape) for w in base.weights]
    differences = []
    for model in _models(whole):
        found = [tuple(w.shape) for w in model.weights]
        if found == wanted:
            base.set_weights(model.get_weights())
            return
        differences.append(f"{model.name}: {_difference(model, base)}")
    raise DataError(f"{source} holds no {base.name}. Found {'; '.join(differences)}.")


def _models(whole: Any) -> Iterator[Any]:
    yield whole
    for layer in whole.layers:
        if hasattr(layer, "layers"):
            yield from _models(layer)


def _difference(found: Any, wanted: Any) -> str:
    for ours, theirs in zip(wanted.weights, found.weights, strict=False):
        if tuple(ours.shape) != tuple(theirs.shape):
            return f"{theirs.path} is {tuple(theirs.shape)} for {ours.path} {tuple(ours.shape)}"
    return f"{len(found.weights)} weights for {len(wanted.weights)}"
