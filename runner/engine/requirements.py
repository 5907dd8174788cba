"""What this machine has, and what a job that needs more of it lacks here.

The driver, and git, are asked in threads: each may take seconds. Nothing here imports TensorFlow.
"""

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from threading import Thread
from typing import Any, cast

from runner import registry
from runner.engine.source import git_commit
from runner.errors import NotFoundError, SpecError, StoreError
from runner.machine.hardware import Gpu, gpus
from runner.mistakes import short
from runner.queue import presence
from runner.queue.drain import name_of
from runner.queue.presence import Presence
from runner.queue.queue import boot_clock, utc_now
from runner.spec import LABEL, parse
from runner.store import places
from runner.store.allowed import paths_of, refusal
from runner.store.base import Store
from runner.training.check import short_of_memory

LABELS_VARIABLE = "RUNNER_LABELS"  #: labels of this machine, separated by commas
NEWS_SECONDS = 60.0  #: between two signs of a worker that has news, at least
LAST_SECONDS = 2.0  #: that the end of a worker waits for a bucket to forget it


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


def missing_here(spec: Mapping[str, Any], store_url: str, *, begun: bool = False) -> str:
    """Return what a job needs and this machine has not: "it has no /data/x.npz"; "" if nothing.

    Only what another machine may well have: a file, a package of the user's own, more memory, a
    version of runner that can read the spec, the permission to read what a job of this store names.

    Args:
        spec: as the log keeps it.
        store_url: of the store that the job lies in.
        begun: it has a checkpoint, and needs no weights to begin with.
    """
    paths = [*paths_of(spec, begun=begun)]
    for path in paths:
        if refused := refusal(path, store_url):
            return refused
    for part, kind in (("data", "datasets"), ("model", "models")):
        name = (spec.get(part) or {}).get("name")
        if isinstance(name, str):
            try:
                registry.get(cast("registry.Kind", kind), name)
            except NotFoundError as error:
                return f"it has no {kind.removesuffix('s')} '{name}' ({error})"
    try:
        data = parse(spec, source="its spec").data
    except SpecError as error:
        text = "; ".join(line.strip() for line in str(error).splitlines())
        return f"this version of runner can't read {text[:500]}"
    for path in paths:
        given = data.given if path == data.path else None
        where = places.here(path, given)
        if where not in (None, path) and (refused := refusal(os.path.abspath(where), store_url)):  # noqa: PTH100
            return refused
        if where is None:
            other = f", nor {given} in the folder it works in" if given else ""
            return f"it has no {path[:200]}{other[:200]}"
    return short_of_memory(spec)


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
        """Return the commit of the working folder, see `source`; the first call may wait for it."""
        return self._git_commit.result()


class Identity:
    """A worker, as claims name it and `runner status --workers` shows it.

    Args:
        store: where it is shown.
        owner: its process.
        looking: at its machine.
    """

    def __init__(self, store: Store, owner: Mapping[str, Any], looking: Looking) -> None:
        self._store = store
        self._owner = dict(owner)
        self._looking = looking
        self._left: Mapping[str, str] | None = None  # as told the last time
        self._told_at = 0.0
        self.name = name_of(owner)

    def lacks(self, requirements: Mapping[str, Any] | None) -> str:
        """Return what a job needs and this machine does not have, see `Machine`."""
        return self._looking.machine().lacks(requirements) if requirements else ""

    def claimant(self, kills: int | None) -> dict[str, Any]:
        """Name this worker as an owner, with what others want to know of it."""
        return {
            **self._owner,
            "git_commit": self._looking.git_commit(),
            **({"gpus": 1} if self._looking.machine().gpus else {}),  # a job trains on one
            **({"oom_kills": kills} if kills is not None else {}),
        }

    def unused(self) -> str:
        """Say that a machine has more GPUs than a worker uses; "" if it has not."""
        cards = len(self._looking.machine().gpus)
        one = "'runner work --each-gpu' starts one for each"
        return f"{cards} GPUs are here, and a worker uses one: {one}" if cards > 1 else ""

    def tell(self, left: Mapping[str, str]) -> None:
        """Show this worker, and the jobs that it left, at once or a little later.

        That it can't be written harms nothing.
        """
        now, first = boot_clock(), self._left is None
        pause = presence.RENEW_SECONDS if left == self._left else NEWS_SECONDS
        if not first and now - self._told_at < pause:
            return
        self._left, self._told_at = dict(left), now
        machine = self._looking.machine()
        with suppress(StoreError):
            if first:
                presence.tidy(self._store)
            presence.tell(
                self._store,
                Presence(
                    owner=self._owner,
                    sent_at=utc_now(),
                    gpus=tuple(f"{gpu.name}, {gpu.memory_mib} MiB" for gpu in machine.gpus),
                    labels=tuple(sorted(machine.labels)),
                    version=_version(),
                    left=left,
                ),
            )

    def leave(self) -> None:
        """Show it no more. A bucket that hangs does not hold up its end."""
        if self._left is None:
            return

        def remove() -> None:
            with suppress(StoreError):
                presence.remove(self._store, self.name)

        removing = Thread(target=remove, daemon=True)
        removing.start()
        removing.join(LAST_SECONDS)


def _version() -> str:
    try:
        return version("keras-runner")
    except PackageNotFoundError:
        return ""
