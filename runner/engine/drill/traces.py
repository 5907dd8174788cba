"""The traces of an undisturbed and a killed training, compared: what differs first, and where.

Each line of a trace holds hashes of what a training consisted of after a step. A step that was
made twice, before a kill and after the resume, must have been the same both times.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path

MOMENTS = ("start", "batch", "epoch", "final")  #: at one step, in this order
_SHOWN = 6  #: names of what differs at one step
Key = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a training consisted of at one moment."""

    fit: int  #: which of the program's
    step: int
    epoch: int  #: epochs done
    moment: str
    at: float  #: by the process's monotonic clock
    restored: bool  #: as a checkpoint brought it back
    batches: Sequence[str] | None  #: read since the line before; None where they can't be seen
    variables: Mapping[str, str]
    python: Mapping[str, str]  #: attributes of callbacks, layers and model

    @property
    def key(self) -> Key:
        """Its place among all."""
        return self.fit, self.step, MOMENTS.index(self.moment)

    @property
    def values(self) -> dict[str, str]:
        """All hashes, by name."""
        return {**self.variables, **self.python}

    def where(self) -> str:
        """Say it for people."""
        fit = f"fit {self.fit}, " if self.fit > 1 else ""
        ends = {"epoch": f", end of epoch {self.epoch}", "final": ", end of the training"}
        return f"{fit}step {self.step}{ends.get(self.moment, '')}"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one process wrote down."""

    lines: Sequence[Line] = ()
    killed: bool = False  #: on order
    warnings: Sequence[str] = ()  #: that runner gave

    @property
    def made(self) -> list[Line]:
        """The lines of steps that were made, not restored."""
        return [line for line in self.lines if not line.restored]

    @property
    def reached(self) -> int:
        """The step of its last line."""
        return self.lines[-1].step if self.lines else 0

    @property
    def resumed_at(self) -> int:
        """The step with which it went on; 0 from the beginning."""
        return next((line.step for line in reversed(self.lines) if line.restored), 0)


def read(path: Path) -> Trace:
    """Return a trace; its last line may have been cut short by a kill."""
    names = {field.name for field in fields(Line)}
    found = []
    for text in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(text))
    return Trace(
        lines=[Line(**data) for data in found if data.keys() == names],
        killed=any("killed" in data for data in found),
        warnings=[data["warned"] for data in found if "warned" in data],
    )


def compare(
    undisturbed: Trace,
    attempts: Sequence[Trace],
    *,
    ignored: Sequence[str] = (),
    ended: bool = True,
) -> list[str]:
    """Return in words what differs, what differs first before all else.

    Args:
        undisturbed: of a run that nobody killed.
        attempts: of the one that was, in order.
        ignored: patterns of names that may differ.
        ended: the last attempt came to an end, and should have made everything.
    """
    comparison = _Comparison(undisturbed, attempts, ignored)
    words = [*comparison.steps(), *(comparison.ends() if ended else ())]
    warned = dict.fromkeys(text for attempt in attempts for text in attempt.warnings)
    return [*words, *(f"runner had said: {text}" for text in warned)] if words else []


class _Comparison:
    def __init__(
        self, undisturbed: Trace, attempts: Sequence[Trace], ignored: Sequence[str]
    ) -> None:
        self._truth = {line.key: line for line in undisturbed.made}
        made = [(line, attempt) for attempt in attempts for line in attempt.made]
        self._made = sorted(made, key=lambda pair: pair[0].key)
        self._ignored = ignored
        #: attributes that no step changes, such as a path that each process makes anew
        self._constant = set.intersection(
            *map(_constant, [undisturbed, *(one for one in attempts if one.made)])
        )

    def steps(self) -> Iterator[str]:
        known = [pair for pair in self._made if pair[0].key in self._truth]
        other = next((line for line, _ in known if self._reads_other(line)), None)
        first = next((pair for pair in known if self._differing(pair[0])), None)
        if other is not None and (first is None or other.key <= first[0].key):
            yield f"the batches differ from {other.where()} on"
        if first is not None:
            yield self._first(first[0])
            yield from self._resume(*first)

    def _reads_other(self, line: Line) -> bool:
        one, other = line.batches, self._truth[line.key].batches
        if one is None or other is None:
            return False
        both = min(len(one), len(other))  # a resume may fall between two lines
        return list(one[len(one) - both :]) != list(other[len(other) - both :])

    def _differing(self, line: Line, *, allowed: Collection[str] = ()) -> list[str]:
        whole, found = self._truth[line.key].values, line.values
        return [
            name
            for name in {**whole, **found}
            if whole.get(name) != found.get(name)
            and (name in allowed or name not in self._constant)
            and not any(fnmatchcase(shown(name), pattern) for pattern in self._ignored)
        ]

    def _first(self, line: Line) -> str:
        name, *more = self._differing(line)
        whole, found = self._truth[line.key].values, line.values
        hashes = f"undisturbed {_short(whole.get(name))}, resumed {_short(found.get(name))}"
        return f"{line.where()}: {shown(name)} differs first ({hashes})" + _listed(", and", more)

    def _resume(self, line: Line, attempt: Trace) -> Iterator[str]:
        """Say what was already other when the attempt went on: the cause, if anything is."""
        restored = [one for one in attempt.lines if one.restored and one.key in self._truth]
        begin = next((one for one in reversed(restored) if one.key <= line.key), None)
        if begin is None:
            return
        names, where = self._differing(begin, allowed=self._constant), begin.where()
        if names:
            yield f"not as before the kill when it went on after {where}:{_listed('', names)}"
        else:
            yield f"all that is compared was as before when it went on after {where}"

    def ends(self) -> Iterator[str]:
        made = {line.key for line, _ in self._made}
        lacking = sorted(key for key in self._truth.keys() - made if key[1])
        if lacking:
            more = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            yield f"never made when killed: {self._truth[lacking[0]].where()}{more}"
        extra = next((line for line, _ in self._made if line.key not in self._truth), None)
        if extra is not None:
            yield f"made only when killed: {extra.where()}"


def _constant(trace: Trace) -> set[str]:
    names = {name for line in trace.made for name in line.python}
    return {name for name in names if len({line.python.get(name) for line in trace.made}) == 1}


def shown(name: str) -> str:
    """Return a variable's name without its number, which only tells equal ones apart.

    >>> shown("optimizer/00002/adam/dense/kernel_momentum")
    'optimizer/adam/dense/kernel_momentum'
    """
    return re.sub(r"^(\w+)/\d{5}/", r"\1/", name)


def _short(value: str | None) -> str:
    return "absent" if value is None else f"{value[:4]}…"


def _listed(lead: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    short = list(dict.fromkeys(map(shown, names)))
    more = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
    return f"{lead} {', '.join(short[:_SHOWN])}{more}"
