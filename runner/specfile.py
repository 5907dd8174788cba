"""Files of specs: JSON, `--set` changes, and sweeps that make several jobs of one file."""

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import mistakes
from runner.errors import SpecError
from runner.spec import JobSpec, parse
from runner.specparts import Training


def load(path: Path, changes: Iterable[str] = ()) -> JobSpec:
    """Read a spec file that is one job: see `load_all`.

    Raises:
        SpecError: as `load_all`, or the file sweeps over several jobs.
    """
    found = load_all(path, changes)
    if len(found) != 1:
        raise SpecError(f"{path}: sweeps over {len(found)} jobs; expected one")
    return found[0]


def load_all(path: Path, changes: Iterable[str] = ()) -> list[JobSpec]:
    """Read a spec file, apply `key=value` changes, check it.

    With a `sweep`, a list of objects such as {"name": "wide", "model.arguments.width": 2.0}, the
    file is one job for each: the rest of the file with these changes.

    Args:
        path: the JSON file. Its relative `data.path` is relative to the file.
        changes: `--set` texts such as `training.epochs=2`; values are JSON, or
            plain text where they are not. A path given here is relative to the
            current folder.

    Raises:
        SpecError: unreadable, not JSON, or any mistake in it, all of them at once.
    """
    raw = _read(path)
    _resolve_data_path(raw, path.parent)
    _drop_default_epochs(raw)
    variants = list(_variants(raw, path))
    specs, wrong, data = [], dict[str, list[str]](), list[Any]()
    for variant, source in variants:
        try:
            one = changed(variant, changes)
            specs.append(parse(one, source=source, known=_epochs_beside_phases(one)))
        except SpecError as error:
            text = str(error).removeprefix(source)
            wrong.setdefault(text, []).append(source if text != str(error) else "")
            data += error.data
    if wrong:
        told = SpecError("\n".join(_alike(of) + text for text, of in wrong.items()))
        told.data = [*data, *((path, one) for one in specs)]
        raise told
    return specs


def _alike(sources: Sequence[str]) -> str:
    """Name the first of those that have the same mistakes, and count the others."""
    more = len(sources) - 1
    if not more or not sources[0]:  # of the changes, which are the same for all
        return sources[0]
    return f"{sources[0]} and {more} more {'entries' if more > 1 else 'entry'}"


def changed(raw: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Apply `--set` texts to a spec that is not checked yet.

    Raises:
        SpecError: a text is no `key=value`, or a list has no such entry.
    """
    result = copy.deepcopy(dict(raw))
    for change in changes:
        _place(result, *_parted(change), folder=Path.cwd())
    return result


def _drop_default_epochs(raw: dict[str, Any]) -> None:
    """Leave out what an effective spec, as `validate` prints it, has beside its phases."""
    training = raw.get("training")
    if not isinstance(training, dict) or not training.get("phases"):
        return
    if training.get("epochs") == Training().epochs:
        del training["epochs"]


def _epochs_beside_phases(raw: dict[str, Any]) -> list[str]:
    """The mistake of a number of epochs that would have no effect."""
    training = raw.get("training")
    if isinstance(training, dict) and training.get("phases") and "epochs" in training:
        return [
            f"training.epochs: received {mistakes.short(training['epochs'])}, but training.phases"
            " has the epochs of each phase, and these count. Leave one of them out, or change the"
            " phases: --set training.phases.0.epochs=1, or all of them:"
            """ --set 'training.phases=[{"epochs": 1}, …]'."""
        ]
    return []


def _variants(raw: dict[str, Any], path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The specs that a file holds, and how errors name each."""
    sweep = raw.pop("sweep", None)
    if sweep is None:
        yield raw, str(path)
        return
    if not isinstance(sweep, list) or not sweep or not all(isinstance(s, dict) for s in sweep):
        raise SpecError(
            f"{path}: sweep: received {mistakes.short(sweep)}; expected a list of objects such as"
            ' {"name": "wide", "model.arguments.width": 2.0}.'
        )
    for number, variant in enumerate(sweep, start=1):
        one = copy.deepcopy(raw)
        if isinstance(one.get("name"), str):
            one["name"] = f"{one['name']}-{number}"
        for key, value in variant.items():
            _place(one, key, value, folder=path.parent)
        yield one, f"{path}: sweep[{number - 1}]"


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("is no regular file. Give the path of a spec.")
        # utf-8-sig: editors on Windows begin files with a byte order mark
        raw = json.loads(
            path.read_text(encoding="utf-8-sig"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
        )
        if not isinstance(raw, dict):
            raise ValueError(
                f"received a JSON {type(raw).__name__}; expected an object with a name"
            )
    except FileNotFoundError:
        msg = f"{path}: no such file. Give the path of a spec, such as jobs/quickstart.json."
        raise SpecError(msg) from None
    except json.JSONDecodeError as error:
        msg = f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}"
        if path.suffix == ".py":
            msg = f"{path}: is no job. A job is a JSON file, which names the program {path.stem!r}."
        raise SpecError(msg) from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: is no text in UTF-8. Save it as that.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: {error}") from None
    return raw


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that JSON knows; give a finite one")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the field {key!r} stands there twice; keep one")
        result[key] = value
    return result


def _resolve_data_path(raw: dict[str, Any], folder: Path) -> None:
    """Make a relative local path absolute, so that it means the same in every folder here.

    On other machines it may be where it was, relative to the folder that one works in.
    """
    for name in ("data", "program", "from"):
        part = raw.get(name)
        if isinstance(part, dict) and isinstance(part.get("path"), str):
            _resolve(part, name, folder)


def _resolve(part: dict[str, Any], name: str, folder: Path) -> None:
    path: str = part["path"]
    is_url = "://" in path or "::" in path
    if path and not is_url:
        try:
            local = Path(path).expanduser()
            if not local.is_absolute():
                part["given"] = os.path.relpath(folder / local)
            part["path"] = str((folder / local).resolve())
        except (RuntimeError, OSError, ValueError) as error:
            msg = f"{name}.path: received {mistakes.short(path)}; it cannot be a path: {error}"
            raise SpecError(msg) from None


def _parted(change: str) -> tuple[str, Any]:
    """Return the field and the value of a `--set` text."""
    key, separator, text = change.partition("=")
    key = key.strip()
    if not separator or not key or not all(key.split(".")):
        raise SpecError(f"--set received {change!r}; expected key=value such as training.epochs=2")
    if key.partition(".")[0] == "sweep":
        msg = "--set sweep: a sweep stands in the file; --set changes each of its jobs alike"
        raise SpecError(msg)
    try:
        return key, json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError:
        return key, text
    except (ValueError, RecursionError) as error:
        raise SpecError(f"--set {key}: received {mistakes.short(text)}; {error}") from None


def _place(raw: dict[str, Any], key: str, value: Any, *, folder: Path) -> None:
    """Set a field by its path; a data path is relative to the folder.

    A number in the path is an entry of a list: `training.phases.0.epochs`.
    """
    *parents, last = key.split(".")
    place: Any = raw
    for name in parents:
        step: Any = _step(place, name, key)
        child = place[step] if isinstance(place, list) else place.get(step)
        if not isinstance(child, dict | list):
            child = place[step] = {}
        place = child
    place[_step(place, last, key)] = value
    if key in ("data.path", "program.path", "from.path"):
        place.pop("given", None)  # of the path before
        _resolve_data_path(raw, folder)


def _step(place: Any, name: str, key: str) -> int | str:
    """The name of a field, or the number of an entry where the place is a list."""
    if not isinstance(place, list):
        return name
    if name.isdecimal() and int(name) < len(place):
        return int(name)
    raise SpecError(f"{key}: {name} is no entry of this list of {len(place)}; the first is 0")
