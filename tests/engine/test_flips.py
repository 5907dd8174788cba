"""Whatever bit of a half-done job flips, its training goes on from a state that it had, or waits.

The job is trained for a few steps by a real process that is killed. Then every object below its
folder is damaged, a bit at a time, and the job is looked at and taken up by a worker that does all
but train. `chaos` flips every bit there is, and prints a table.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from runner.checkpoint import reading
from runner.checkpoint.ledger import Ledger
from runner.checkpoint.manifest import Reference
from runner.checkpoint.packs import hash_bytes
from runner.checkpoint.reading import Restored, read_checkpoint
from runner.cli import status
from runner.cli.detail import detail
from runner.engine import running
from runner.engine.preemption import StopRequest
from runner.engine.requirements import Looking, Machine
from runner.engine.stages import Attempt
from runner.engine.worker import Worker
from runner.errors import PreemptedError
from runner.queue import protocol
from runner.queue.queue import Queue
from runner.queue.view import Onlooker, describe
from runner.store import log
from runner.store.filesystem import FileStore
from tests.engine.counting import Notes
from tests.harness import Runner
from tests.store.memory import MemoryStore

BASE = "jobs/half"
SPEC = {
    "name": "half",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "arguments": {"units": [1]}},
    "training": {"epochs": 2, "batch_size": 64},
    "checkpoint": {"every": "5 steps"},
    "evaluation": None,
}
PEOPLE = ("reason", "notes", "seen_seconds")  #: of `status --json`: words, and the time
OUTCOMES = ("other state", "fresh start", "traceback", "said", "unharmed")


class Here(Looking):
    """This machine, without asking its driver and git."""

    def __init__(self) -> None:
        pass

    def machine(self) -> Machine:
        return Machine()

    def git_commit(self) -> str:
        return ""


class Still(nullcontext[None]):
    """Neither heartbeats nor looks at the memory: for attempts that are over at once."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        super().__init__()

    def check(self) -> None:
        pass


class AtOnce(Executor):
    """Threads would take longer to start than what they do here."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        pass

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
            done.set_exception(error)
        return done


@dataclass
class Taken:
    """What a worker found when it took the job up."""

    notes: Notes = field(default_factory=Notes)
    warnings: list[str] = field(default_factory=list)
    token: int = 0
    spec: Any = None
    state: str | None = None  #: of the training, all of it; None: it would begin anew

    @property
    def said(self) -> bool:
        return bool(self.notes.notes or self.warnings)


def whole(restored: Restored) -> str:
    """All that a training goes on with, in a word."""
    plain = [restored.python, vars(restored.position), restored.history, restored.numerics]
    tensors = [(name, hash_bytes(a.tobytes()), a.shape) for name, a in restored.tensors.items()]
    return hash_bytes(json.dumps([plain, tensors], default=str).encode())


def take_up(store: MemoryStore) -> Taken:
    """Let a worker take the job up, restore its state, and let it go."""
    taken = Taken()
    queue = Queue(store)
    worker = Worker(queue, store, stop=StopRequest(), reporter=taken.notes, looking=Here())
    RESTORING.append(taken)
    worker._take_one(None)  # once: let go, it could be taken up again at once
    return RESTORING.pop()


RESTORING: list[Taken] = []  #: what `restore` finds


def restore(attempt: Attempt) -> None:
    """In the place of a training."""
    job, taken = attempt.lease.job, RESTORING[-1]
    saver = Ledger(
        attempt.store,
        attempt.prefix,
        token=job.token,
        commit=attempt.lease.commit,
        checkpoints=job.checkpoints,
        best=job.best,
        warn=taken.warnings.append,
    )
    restored = saver.restore()
    taken.token, taken.spec = job.token, attempt.spec
    taken.state = None if restored is None else whole(restored)
    raise PreemptedError("seen")


def shown(store: MemoryStore) -> tuple[dict[str, Any], Mapping[str, str]]:
    """What `runner status JOB` shows, and what it says it can't read."""
    options = argparse.Namespace(job=[], state=None, match=None, worker=None)
    queue = Queue(store)
    onlooker = Onlooker(queue)
    views = status.look(onlooker, options)
    status.table(views, onlooker.unreadable)
    documents = [describe(store, view) for view in views]
    for view in views:
        detail(queue, view)
    return (documents or [{}])[0], onlooker.unreadable


class Sweep:
    """A half-done job, and what becomes of it when a bit of it flips."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        job = Queue(store).job("half")
        self.token, self.newest = job.token, log.slot(BASE, job.number)
        self.spec = Queue(store).spec("half")
        #: the same job one record earlier
        self.before = store.copy()
        self.before.delete(self.newest)
        record = store.read(log.slot(BASE, job.number - 1)) or b""
        self.before.put(log.hint(BASE), record)
        #: the newest record is there, its copy is the one before it
        self.behind = store.copy()
        self.behind.put(log.hint(BASE), record)
        self.pages = [shown(one)[0] for one in (store, self.before)]
        known = [*job.checkpoints, *Queue(self.before).job("half").checkpoints]
        self.states = {
            whole(read_checkpoint(store, Reference.from_json(one)))
            for one in known
            if store.size(one["manifest"])
        }
        self.state = take_up(store.copy()).state
        assert self.state in self.states
        self.read = self._keys_read(store) | self._keys_read(self.behind)

    @staticmethod
    def _keys_read(store: MemoryStore) -> set[str]:
        keys: set[str] = set()
        store = store.copy()
        store.hook = lambda _number, _operation, key: keys.add(key)
        shown(store)
        take_up(store)
        return keys

    def flipped(self, store: MemoryStore, key: str, bit: int) -> str:
        """Flip a bit and say what became of it: one of OUTCOMES."""
        if key not in self.read:
            return "unharmed"  # as it is not looked at
        store = store.copy()
        data = bytearray(store.read(key) or b"")
        data[bit // 8 % len(data)] ^= 1 << bit % 8  # an older copy may be shorter
        store.put(key, bytes(data))
        try:
            page, unreadable = shown(store)
            taken = take_up(store)
        except Exception as error:  # noqa: BLE001 - it is what is counted
            return f"traceback ({type(error).__name__}: {error})"
        if not taken.token:  # passed over, or failed: not one step was made of anything
            said = taken.said and (unreadable or Queue(store).job("half").reason)
            return "said" if said else "other state (passed over in silence)"
        if taken.state is None:
            return "fresh start"
        if not unreadable and not self._is_known(page):
            return f"other state (shown: {page})"
        right = taken.spec == self.spec and taken.token > self.token
        if not right or taken.state not in self.states:
            return f"other state (token {taken.token}, spec {taken.spec == self.spec})"
        if taken.state != self.state or taken.said:
            return "said" if taken.said else "other state (an earlier one, in silence)"
        return "unharmed"

    def _is_known(self, page: Mapping[str, Any]) -> bool:
        """Whether `status` shows one of the two states, or leaves fields of it out."""
        return any(
            all(
                page[name] in (value, None, {}) for name, value in one.items() if name not in PEOPLE
            )
            for one in self.pages
        )


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    """Every object of a job whose worker was killed after its fourth checkpoint."""
    path = tmp_path_factory.mktemp("half")
    (path / "job.json").write_text(json.dumps(SPEC))
    died = Runner(path / "store").run("submit", str(path / "job.json"), sabotage="committed:4")
    assert died.returncode == -9, died.stderr[-2000:]
    return in_memory(path / "store")


def in_memory(path: Path) -> MemoryStore:
    files, store = FileStore(path), MemoryStore()
    for key in files.list(""):
        store.put(key, files.read(key) or b"")
    return store


@pytest.fixture
def sweep(half_done: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(running, "run_stage", restore)
    monkeypatch.setattr(running, "Heartbeat", Still)
    monkeypatch.setattr(running, "MemoryWatch", Still)
    monkeypatch.setattr(reading, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(status, "ThreadPoolExecutor", AtOnce)
    return Sweep(half_done)


def kind(key: str) -> str:
    """What an object is, for the table."""
    name = key.removeprefix(f"{BASE}/")
    return "record 0" if name == "log/000000000000.json" else name.split("/")[0]


def table(sweep: Sweep, bits: Mapping[str, Iterable[int]]) -> tuple[str, list[str]]:
    """Flip these bits of each object; how many ended how, and all that should not have been."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[str] = []
    for key, places in bits.items():
        for bit in places:
            for name, store in (("", sweep.store), (", copy behind", sweep.behind)):
                if name and kind(key) not in ("log", "record 0", "head.json"):
                    continue
                found = sweep.flipped(store, key, bit)
                outcome = next(one for one in OUTCOMES if found.startswith(one))
                counts[f"{kind(key)}{name}"][outcome] += 1
                if outcome not in ("said", "unharmed"):
                    wrong.append(f"bit {bit} of {key}{name}: {found}")
    head = f"{'OBJECT':<24}{'BITS':>9}" + "".join(f"{one.upper():>14}" for one in OUTCOMES)
    rows = [
        f"{name:<24}{sum(count.values()):>9}" + "".join(f"{count[one]:>14}" for one in OUTCOMES)
        for name, count in sorted(counts.items())
    ]
    return "\n".join(["", head, *rows]), wrong


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_said_or_harmless(sweep: Sweep) -> None:
    """A few of each object."""
    random = Random(17)
    keys = sweep.store.list(f"{BASE}/")
    bits = {
        key: [random.randrange(8 * (sweep.store.size(key) or 0)) for _ in range(50)] for key in keys
    }
    text, wrong = table(sweep, bits)
    assert not wrong, "\n".join([text, *wrong[:20]])


@pytest.mark.chaos
@pytest.mark.timeout(8 * 3600)
def test_every_flipped_bit_is_said_or_harmless(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = sweep.store.list(f"{BASE}/")
    text, wrong = table(sweep, {key: range(8 * (sweep.store.size(key) or 0)) for key in keys})
    with capsys.disabled():
        print(text)
    assert not wrong, "\n".join([text, *wrong[:20]])


def test_the_newest_record_damaged_and_its_copy_behind(sweep: Sweep) -> None:
    """The one before it counts, said, and the worker goes on under a token nobody had."""
    store = sweep.behind.copy()
    data = bytearray(store.read(sweep.newest) or b"")
    data[100] ^= 4
    store.put(sweep.newest, bytes(data))
    page, unreadable = shown(store)
    assert not unreadable
    assert "is damaged: the one before it counts" in page["reason"]
    taken = take_up(store)
    assert "half: record 5 of its log is damaged: the one before it counts" in taken.notes.text
    assert taken.token == sweep.token + 2
    job = Queue(store).job("half")
    assert "is damaged" in job.notes[0]
    assert store.read(protocol.base("half") + "/log/000000000005.json") == bytes(data)
