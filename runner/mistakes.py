"""Mistakes in a spec, in words: the field, what was given, what is known, the nearest name."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError

from runner import registry
from runner.errors import NotFoundError


def explain(error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any]) -> list[str]:
    """All mistakes that pydantic found in a spec, which is given as it was read."""
    places = [*_places(model), *_argument_places(model, raw)]
    return [
        sentence((), detail, _known_at(model, detail["loc"]), places) for detail in error.errors()
    ]


def without(raw: Mapping[str, Any], error: ValidationError) -> dict[str, Any]:
    """The spec without the fields that are wrong."""
    rest = copy.deepcopy(dict(raw))
    for detail in error.errors():
        place, path = rest, [str(step) for step in detail["loc"]]
        while len(path) > 1 and isinstance(place.get(path[0]), dict):
            place = place[path.pop(0)]
        place.pop(path[0], None) if path else None
    return rest


def report(source: str, mistakes: list[str]) -> str:
    """The mistakes below each other, with their number; `source` names the spec."""
    lines = [line for mistake in mistakes for line in mistake.splitlines()]
    count = f"{len(lines)} mistakes" if len(lines) > 1 else "1 mistake"
    return "\n".join([f"{source}: {count}", *(f"  {line}" for line in lines)])


def sentence(
    prefix: tuple[str, ...], detail: Any, known: list[str], places: Sequence[str] = ()
) -> str:
    """One mistake in one line: field, what was given, what is known.

    Args:
        prefix: of the field's path.
        detail: what pydantic says.
        known: names that the field could have.
        places: paths of all fields, for one that stands in the wrong place.
    """
    path = ".".join(map(str, (*prefix, *detail["loc"]))) or "the spec"
    if detail["type"] == "extra_forbidden":
        hint = _meant(path, known, places)
        return f"{path}: no such field.{hint} Known: {', '.join(known) or 'none'}."
    if detail["type"] == "missing":
        return f"{path}: is missing."
    if detail["type"] == "value_error":
        text = str(detail["ctx"]["error"])
        return f"{path}: {text}." if detail["loc"] else text
    return f"{path}: received {short(detail['input'])}; {_expected(detail)}"


def _expected(detail: Any) -> str:
    given = detail["input"]
    if detail["type"] == "literal_error":
        expected = detail["ctx"]["expected"]
        hint = registry.nearest(str(given), re.findall(r"'([^']*)'", expected))
        return f"expected {expected}.{hint}"
    if detail["type"] in ("tuple_type", "list_type") and isinstance(given, str):
        return f"expected a list such as {short([given])}."
    if detail["type"] == "string_pattern_mismatch":  # of a name or a label
        letters = "letters" if "A-Z" in detail["ctx"]["pattern"] else "lower-case letters"
        return (
            f"expected up to 63 {letters}, digits, '.', '_' or '-', beginning with a "
            "letter or digit."
        )
    return f"{detail['msg'][0].lower()}{detail['msg'][1:]}."


def _meant(path: str, known: list[str], places: Sequence[str]) -> str:
    part, dot, name = path.rpartition(".")
    elsewhere = [place for place in places if place.rpartition(".")[2] == name]
    if not elsewhere:
        return registry.nearest(name, known, part + dot)
    return f" Did you mean {' or '.join(map(repr, elsewhere[:3]))}?"


def short(value: Any) -> str:
    """What was given, as JSON of at most 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: object) -> str:
    """What a value is, for a sentence: "a list"."""
    return "None" if value is None else f"a {type(value).__name__}"


def _places(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The paths of all fields, those of parts first: "training.epochs"."""
    found = []
    for name, field in model.model_fields.items():
        found.append(f"{prefix}{field.alias or name}")
        for option in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(option, "model_fields"):
                found += _places(option, f"{prefix}{field.alias or name}.")
    return found


def _argument_places(model: type[BaseModel], raw: Mapping[str, Any]) -> list[str]:
    """The paths of what the named entries take: "model.arguments.width"."""
    found: list[str] = []
    for part, kind in registry.kinds_of(raw).items():
        given: Any = raw.get(part)
        default: Any = model.model_fields[part].annotation
        name = given.get("name") if isinstance(given, Mapping) else None
        with suppress(NotFoundError):
            entry = registry.get(kind, str(name or default().name))
            found += [f"{part}.arguments.{one}" for one in registry.parameters(entry, kind)]
    return found


def _known_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The field names of the part that a location lies in."""
    part: Any = model
    for name in location[:-1]:
        if not isinstance(name, int):  # an entry of a list, whose form is known already
            field = _fields(part).get(name)
            part = _part_of(field.annotation) if field else None
    return [*_fields(part)]


def _fields(part: Any) -> dict[str, Any]:
    """The fields of a part that people may give, by their names in a spec."""
    fields = getattr(part, "model_fields", {})
    return {one.alias or name: one for name, one in fields.items() if name != "given"}


def _part_of(annotation: Any) -> Any:
    """The part that a field, or each entry of it, is; None where it is a plain value."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_part_of, getattr(annotation, "__args__", ()))), None)
