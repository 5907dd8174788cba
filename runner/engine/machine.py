"""What this machine has, and what a job that needs more of it lacks here.

The driver, and git, are asked in threads: each may take seconds. Nothing here imports TensorFlow.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runner import registry
from runner.engine.source import git_commit
from runner.errors import NotFoundError
from runner.training.check import short_of_memory
from runner.training.machine import Gpu, gpus

LABELS_VARIABLE = "RUNNER_LABELS"  #: labels of this machine, separated by commas


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What jobs may require."""

    gpus: tuple[Gpu, ...] = ()
    labels: frozenset[str] = frozenset()

    def lacks(self, requirements: Mapping[str, Any] | None) -> str:
        """Return what a job needs and this machine does not have, for a sentence; "" if nothing.

        >>> Machine(labels=frozenset({"lab"})).lacks({"labels": ["lab", "a100"]})
        "it needs a machine labelled a100, this one is lab"
        """
        needs = dict(requirements or {})
        memory, labels = needs.pop("gpu_memory_gb", None), needs.pop("labels", None) or []
        missing = [label for label in labels if label not in self.labels]
        if missing:
            mine = ", ".join(sorted(self.labels)) or "without a label (runner work --label)"
            return f"it needs a machine labelled {', '.join(missing)}, this one is {mine}"
        largest = max((gpu.memory_mib for gpu in self.gpus), default=0)
        # cards of "16 GB" tell a little less than that
        if memory is not None and largest < 0.93 * memory * 1e9 / 2**20:
            has = f"the largest here has {largest * 2**20 / 1e9:.1f} GB" if largest else "none here"
            return f"it needs a GPU with {memory:g} GB of memory, {has}"
        unknown = [name for name, value in needs.items() if value]
        if unknown:
            return f"it needs {', '.join(unknown)}, of which this version of runner knows nothing"
        return ""


def missing_here(spec: Mapping[str, Any]) -> str:
    """Return what a job needs and this machine has not: "it has no /data/x.npz"; "" if nothing.

    Only what another machine may well have: a file, a package of the user's own, more memory.
    """
    for part, kind in (("data", "datasets"), ("model", "models")):
        name = (spec.get(part) or {}).get("name")
        if isinstance(name, str):
            try:
                registry.get(cast("registry.Kind", kind), name)
            except NotFoundError as error:
                return f"it has no {kind.removesuffix('s')} '{name}' ({error})"
    path = (spec.get("data") or {}).get("path")
    if isinstance(path, str) and "://" not in path and "::" not in path:
        try:
            there = Path(path).expanduser().exists()
        except (OSError, ValueError, RuntimeError):
            there = False
        if not there:
            return f"it has no {path[:200]}"
    return short_of_memory(spec)


class Looking:
    """Looks at this machine in the background."""

    def __init__(self, labels: Iterable[str] = ()) -> None:
        named = os.environ.get(LABELS_VARIABLE, "").split(",")
        self._labels = frozenset(label.strip() for label in (*labels, *named) if label.strip())
        threads = ThreadPoolExecutor(2, thread_name_prefix="machine")
        self._gpus: Future[tuple[Gpu, ...]] = threads.submit(gpus)
        self._git_commit: Future[str] = threads.submit(git_commit)
        threads.shutdown(wait=False)

    def machine(self) -> Machine:
        """Return it; the first call may take as long as the driver."""
        return Machine(gpus=self._gpus.result(), labels=self._labels)

    def git_commit(self) -> str:
        """Return the commit of the working folder, see `source`; the first call may wait for it."""
        return self._git_commit.result()
