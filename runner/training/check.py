"""Whether a spec and its data fit together, before anything is stored or trained."""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner import code, quiet, registry
from runner.datasets.arrays import Dataset
from runner.errors import DataError, MissingHereError, RunnerError, SpecError
from runner.machine.memory import BASE_BYTES, memory_bytes
from runner.mistakes import kind_of
from runner.spec import JobSpec, as_called
from runner.store import places
from runner.store.allowed import paths_of

#: TensorFlow's errors of files and servers, and what it says of one in a generator
_AWAY = {"NotFoundError", "PermissionDeniedError", "UnavailableError"}
_IN_A_GENERATOR = re.compile(
    r"\b(\w*(File|Permission|Connection|Timeout|URL|HTTP|Import)\w*Error):"
)
_FROM_ENVIRONMENT = type(os.environ).__getitem__.__code__


@contextmanager
def obtaining(*also: type[Exception]) -> Iterator[None]:
    """What this machine can't get now is no fault of the job's: another may, or this one later.

    Args:
        also: errors that say so, besides those of files, connections, imports, the environment.

    Raises:
        MissingHereError: a file, a package, a download or a bucket could not be had.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, also) and not _lacks_here(error):
            raise
        what = error if isinstance(error, RunnerError) else code.words(error)
        raise MissingHereError(f"it could not get what it needs: {what}{_looked(error)}") from error


def _looked(error: Exception) -> str:
    """Say where a relative path was looked for; a bare name may be that of a command."""
    named = getattr(error, "filename", None) if isinstance(error, FileNotFoundError) else None
    if not isinstance(named, str) or Path(named).is_absolute():
        return ""
    if not Path(named).suffix and Path(named).name == named:
        return ""
    return f"; looked for in {Path.cwd()}. Give its place as the spec's `path`"


def _lacks_here(error: BaseException | None) -> bool:
    if error is None or isinstance(error, RunnerError):  # those of the store are OSErrors too
        return False
    if isinstance(error, OSError | ImportError):
        return True
    if type(error).__module__.startswith("tensorflow."):
        text = str(error).partition("\n\t")[0]
        return type(error).__name__ in _AWAY or _IN_A_GENERATOR.search(text) is not None
    frames = list(traceback.walk_tb(error.__traceback__))
    if isinstance(error, KeyError) and frames and frames[-1][0].f_code is _FROM_ENVIRONMENT:
        return True
    hidden = error.__suppress_context__
    return _lacks_here(error.__cause__ or (None if hidden else error.__context__))


@contextmanager
def naming(source: str, words: str, of: Callable[[], str] = str) -> Iterator[None]:
    """Let an error name the spec, and one of the user's code what can't be done, and its line.

    Args:
        source: the spec.
        words: what can't be done.
        of: returns what is named where no line of the user's has raised it.

    Raises:
        SpecError: instead of what is no error of ours.
    """
    try:
        yield
    except RunnerError as error:
        told = isinstance(error, MissingHereError) or code.where(error)
        error.args = (f"{source}: {error}{'' if told else of()}",)
        raise
    except (Exception, SystemExit) as error:
        line = "" if code.where(error) else of()
        raise SpecError(f"{source}: {words}: {code.words(error)}{line}") from error


def load_data(spec: JobSpec) -> Dataset:
    """Load the spec's data set; the same files in a bucket only once after another.

    Raises:
        DataError: missing, damaged or of the wrong form.
        DataAwayError: its bucket failed for now.
    """
    load = registry.get("datasets", spec.data.name)
    path = spec.data.path
    if path is not None:
        path = places.here(path, spec.data.given) or path
    version = places.version(path) if path is not None else ""
    key = version and json.dumps([spec.data.name, path, spec.data.arguments, version])
    if key in _of_bucket:
        return _of_bucket[key]
    _of_bucket.clear()
    with quiet.aside():
        dataset = load(path=path, **as_called(load, "datasets", spec.data.arguments))
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"dataset '{spec.data.name}' returned {kind_of(dataset)}, not a Dataset:"
            " `return checked(...)` of runner.datasets.arrays makes one of arrays."
        )
    if key:
        _of_bucket[key] = dataset
    return dataset


_of_bucket: dict[str, Dataset] = {}  #: what was read from a bucket last: a sweep reads it once


def check_fit(spec: JobSpec, dataset: Dataset) -> None:
    """Refuse a split or a batch that this data cannot give.

    Raises:
        SpecError: with the numbers.
    """
    split = dataset.split(spec.data.validation_split, seed=spec.seed)
    images = len(split.train) * spec.data.repeat
    if spec.training.batch_size > images:
        raise SpecError(
            f"training.batch_size: received {spec.training.batch_size}, but an epoch has"
            f" {images} images ({len(split.train)} for training, repeated"
            f" {spec.data.repeat} times). Choose at most {images}."
        )


def check_data(
    specs: Sequence[tuple[Path | str, JobSpec]], *, tell: Callable[[int], None] = lambda _: None
) -> None:
    """Check specs against their data where these can be read without a download.

    Data that several specs share are read once, and those of one spec are held at a time.

    Args:
        specs: valid ones, each with its file, which is named in errors.
        tell: hears how many are checked.

    Raises:
        SpecError: the data cannot be used, or not in this way.
    """
    shared: dict[str, list[tuple[Path | str, JobSpec]]] = {}
    wrong: list[SpecError] = []
    for source, spec in specs:
        try:
            here = _is_here(spec, source) and spec.program is None
        except SpecError as error:
            wrong.append(error)
            continue
        if here:
            data = [spec.data.name, spec.data.path, spec.data.arguments]
            shared.setdefault(json.dumps(data, sort_keys=True), []).append((source, spec))
    checked = 0
    for members in shared.values():
        dataset: Dataset | None = None
        large = short_of_memory(members[0][1].model_dump())  # a larger machine checks it
        for source, spec in () if large else members:
            try:
                dataset = dataset or load_data(spec)
                check_fit(spec, dataset)
            except SpecError as error:
                wrong.append(type(error)(f"{source}: {error}"))
                if dataset is None:
                    break  # none of them can be read
            checked += 1
            tell(checked)
    if wrong:
        raise type(wrong[0])("\n".join(dict.fromkeys(map(str, wrong))))


def _is_here(spec: JobSpec, source: Path | str) -> bool:
    """Whether the data can be read at once."""
    path = (spec.program or spec.data).path
    for field, named in paths_of(spec.effective()).items():
        if "::" in named or places.here(named) is None:
            why = "chained URLs are not opened" if "::" in named else "does not exist"
            raise DataError(f"{source}: {field}: {named[:200]}: {why}.")
    weights = spec.from_ and spec.from_.path and places.here(spec.from_.path, spec.from_.given)
    if weights and Path(weights).expanduser().is_dir():
        raise DataError(f"{source}: from.path: {weights[:200]} is a folder; expected a file.")
    if spec.program is not None or (path is not None and "://" in path):
        return False  # of a program's own, or perhaps gigabytes away: whoever trains checks it
    return path is not None or spec.data.name in BUNDLED | OF_A_PATH  # others are a download


#: datasets that need neither a path nor a download
BUNDLED = frozenset({"digits"})


#: datasets that are nothing without a path, and say so
OF_A_PATH = frozenset({"npz", "folder", "shards"})


def memory_needed(spec: Mapping[str, Any]) -> int:
    """Return how many bytes of memory a job takes at least, its network not counted.

    A data set's file says with `size`, given what its `load` is given, how large its arrays are.
    """
    data = spec.get("data") or {}
    if spec.get("program") is not None:
        return BASE_BYTES
    try:
        load = registry.get("datasets", data["name"])
        size = getattr(sys.modules.get(load.__module__), "size", None)
        path, arguments = data.get("path"), data.get("arguments") or {}
        where = path and places.here(path, data.get("given"))
        return BASE_BYTES + (int(size(path=where, **arguments)) if size else 0)
    except Exception:  # noqa: BLE001 - whoever reads the data will say what is wrong with them
        return BASE_BYTES


def memory_words(needed: int) -> str:
    """Say what is needed and what this machine has."""
    has = memory_bytes()
    here = f"this machine has {has / 1e9:.1f} GB" if has else "what this machine has is not known"
    return f"at least {needed / 1e9:.1f} GB of memory, {here}"


def short_of_memory(spec: Mapping[str, Any]) -> str:
    """Return why a job can't fit into this machine's memory, for a sentence; "" if it may."""
    needed, has = memory_needed(spec), memory_bytes()
    return f"it needs {memory_words(needed)}" if has and needed > has else ""
