"""What this machine has, and what a job that needs more of it lacks here.

The driver, and git, are asked in threads: each may take seconds. Nothing here imports TensorFlow.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from runner import registry
from runner.code import git_commit
from runner.errors import NotFoundError, SpecError
from runner.machine.hardware import Gpu, cpu_devices, gpus
from runner.mistakes import short
from runner.spec import parse
from runner.specparts import LABEL
from runner.store import places
from runner.store.allowed import paths_of, refusal
from runner.store.settings import mask
from runner.training.check import short_of_memory
from runner.training.quiet import import_keras

LABELS_VARIABLE = "RUNNER_LABELS"  #: labels of this machine, separated by commas


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What jobs may require."""

    gpus: tuple[Gpu, ...] = ()
    labels: frozenset[str] = frozenset()

    @property
    def devices(self) -> int:
        """How many one job can use: the GPUs, or what stands for them on the CPU."""
        return len(self.gpus) or cpu_devices()

    def lacks(self, requirements: Mapping[str, Any] | None) -> str:
        """Return what a job needs and this machine does not have, for a sentence; "" if nothing.

        >>> Machine(labels=frozenset({"lab"})).lacks({"labels": ["lab", "a100"]})
        'it needs a machine labelled a100, this one is lab'
        """
        needs = {name: value for name, value in (requirements or {}).items() if value}
        known: dict[str, Callable[[Any], str]] = {
            "labels": self._lacks_labels,
            "gpu_memory_gb": self._lacks_memory,
            "devices": self._lacks_devices,
        }
        lacking = (lacks(needs[name]) for name, lacks in known.items() if name in needs)
        unknown = ", ".join(name for name in needs if name not in known)
        return next(filter(None, lacking), "") or (
            unknown and f"it needs {unknown}, of which this version of runner knows nothing"
        )

    def _lacks_labels(self, labels: Sequence[str]) -> str:
        missing = ", ".join(label for label in labels if label not in self.labels)
        mine = ", ".join(sorted(self.labels)) or "without a label (runner work --label)"
        return missing and f"it needs a machine labelled {missing}, this one is {mine}"

    def _lacks_devices(self, count: int) -> str:
        here = self.devices
        return f"it needs {count} devices, this worker has {here}" if count > here else ""

    def _lacks_memory(self, gigabytes: float) -> str:
        largest = max((gpu.memory_mib * 2**20 / 1e9 for gpu in self.gpus), default=0.0)
        if largest >= 0.93 * gigabytes:  # the driver reports a little less than is on the box
            return ""
        has = f"the largest here has {largest:.1f} GB" if largest else "none here"
        return f"it needs a GPU with {gigabytes:g} GB of memory, {has}"


def missing_here(spec: Mapping[str, Any], store_url: str, *, begun: bool = False) -> str:
    """Return what a job needs and this machine has not: "it has no /data/x.npz"; "" if nothing.

    Only what another machine may well have: a file, a package of the user's own, more memory, a
    version of runner that can read the spec, the permission to read what a job of this store names.

    Args:
        spec: as the log keeps it.
        store_url: of the store that the job lies in.
        begun: it has a checkpoint, and needs no weights to begin with.
    """
    paths = [*paths_of(spec, begun=begun).values()]
    return (
        next(filter(None, (refusal(path, store_url) for path in paths)), "")
        or _lacks_package(spec)
        or _lacks_version(spec)
        or next(filter(None, (_lacks_file(path, spec, store_url) for path in paths)), "")
        or short_of_memory(spec)
    )


def _lacks_package(spec: Mapping[str, Any]) -> str:
    for part, kind in registry.kinds_of(spec).items():
        name = (spec.get(part) or {}).get("name")
        if isinstance(name, str):
            try:
                registry.get(kind, name)
            except NotFoundError as error:
                if isinstance(error.__cause__, ImportError):
                    import_keras()  # where that is what fails, no job can be trained here
                return f"it has no {kind.removesuffix('s')} '{name}' ({error})"
    return ""


def _lacks_version(spec: Mapping[str, Any]) -> str:
    try:
        parse(spec, source="its spec")
    except SpecError as error:
        text = "; ".join(line.strip() for line in str(error).splitlines())
        return f"this version of runner can't read {text[:500]}"
    return ""


def _lacks_file(path: str, spec: Mapping[str, Any], store_url: str) -> str:
    parts = [spec.get(part) or {} for part in ("data", "program", "from")]
    given = next((part.get("given") for part in parts if path == part.get("path")), None)
    if places.is_url(path) and (why := places.lacks_client(path)):
        return f"it can't open {mask(path)[:200]}: {why}"
    where = places.here(path, given)
    if where is None:
        other = f", nor {given} in the folder it works in" if given else ""
        return f"it has no {path[:200]}{other[:200]}"
    # found elsewhere than the spec says
    return "" if where == path else refusal(os.path.abspath(where), store_url)  # noqa: PTH100


class Looking:
    """Looks at this machine in the background."""

    def __init__(self, labels: Iterable[str] = ()) -> None:
        named = os.environ.get(LABELS_VARIABLE, "").split(",")
        self._labels = frozenset(label.strip() for label in (*labels, *named) if label.strip())
        for label in sorted(self._labels):
            if not re.fullmatch(LABEL, label):
                raise SpecError(
                    f"a label (--label, {LABELS_VARIABLE}): received {short(label)}; no spec could "
                    "ask for it. Labels begin with a letter or digit, then come letters, digits, "
                    "'.', '_' and '-', 63 in all."
                )
        threads = ThreadPoolExecutor(2, thread_name_prefix="machine")
        self._gpus: Future[tuple[Gpu, ...]] = threads.submit(gpus)
        self._git_commit: Future[str] = threads.submit(git_commit)
        threads.shutdown(wait=False)

    def machine(self) -> Machine:
        """Return it; the first call may take as long as the driver."""
        return Machine(gpus=self._gpus.result(), labels=self._labels)

    def git_commit(self) -> str:
        """Return the commit of the user's code, see `code`; the first call may wait for it."""
        return self._git_commit.result()
