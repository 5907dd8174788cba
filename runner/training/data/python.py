"""Data that Python code gives batch by batch, sought by its own means: PyDatasets, and grain's."""

import json
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from runner.training.data.batches import permutation
from runner.training.digest import digest
from runner.training.state.anatomy import is_library, names_in_code
from runner.training.state.kinds import CALLS, GENERATORS, kind_of
from runner.training.tracing import generators, set_generators

_ADDRESS = re.compile(" at 0x[0-9a-f]+")
_KEPT = (
    1000  #: states of an iterator: more batches than anything between it and the step reads ahead
)


class InOrder(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of a PyDataset in an order that is a function of seed and epoch.

    Keras would shuffle them with Python's global generator, in a thread of the data's.

    Args:
        dataset: of the program.
        seed: of the order.
        shuffle: False keeps their own order.
    """

    def __init__(self, dataset: Any, *, seed: int, shuffle: bool) -> None:
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self._dataset = dataset
        self.seed = seed
        self.shuffle = shuffle
        self._order: Any = None
        self._epoch = self._first = 0
        self._begun = False

    def seek(self, epoch: int, first: int, *, begun: bool) -> None:
        """Let the next pass begin at this batch.

        Args:
            epoch: whose order it has.
            first: number of the batch in that order.
            begun: the dataset's own `on_epoch_begin` was called for this epoch.
        """
        self._epoch, self._first, self._begun = epoch, first, begun
        self._put_in_order()

    def _put_in_order(self) -> None:
        count = self._dataset.num_batches
        shuffled = self.shuffle and count is not None
        self._order = permutation(count, self.seed, self._epoch) if shuffled else None

    @property
    def num_batches(self) -> int | None:
        """Batches from the one on that was sought; None: they never end."""
        count = self._dataset.num_batches
        return None if count is None else count - self._first

    def __getitem__(self, index: int) -> Any:
        """Return a batch by its place in the pass."""
        place = self._first + index
        return self._dataset[place if self._order is None else int(self._order[place])]

    def on_epoch_begin(self) -> None:
        """Let the dataset begin an epoch, once."""
        if not self._begun:
            self._dataset.on_epoch_begin()
            self._put_in_order()  # it may have more or fewer batches now
        self._begun = False

    def on_epoch_end(self) -> None:
        """Let the dataset end it."""
        self._dataset.on_epoch_end()


class Followed:
    """Where the iterators of a grain dataset or loader stand, and where the next one begins.

    Args:
        dataset: a MapDataset, IterDataset or DataLoader.
        warn: called once when a place can't be had.
        needed: batches that an iterator must have, if one extends over all epochs; else 0.
    """

    def __init__(self, dataset: Any, warn: Callable[[str], None], *, needed: int) -> None:
        self._dataset = dataset
        self._warn: Callable[[str], None] | None = warn
        self._needed = needed
        self._next: tuple[int, Any] = 0, None
        self._states: dict[int, Any] = {}

    def seek(self, taken: int, state: Any = None) -> None:
        """Let the next iterator begin after so many batches, at a state that `state` returned."""
        self._next = taken, state

    def state(self, taken: int) -> Any:
        """Return the state of the running iterator after so many batches; None if it is gone."""
        return self._states.get(taken)

    def dataset(self) -> Any:
        """Return the same data as a grain dataset whose iterators are followed."""
        import grain

        class Dataset(grain.IterDataset):  # type: ignore[misc]
            def __iter__(inner) -> Any:  # noqa: N805 - `self` is what follows it
                return Iterator()

        class Iterator(grain.DatasetIterator):  # type: ignore[misc]
            batches: Any = None
            taken = 0

            def __next__(inner) -> Any:  # noqa: N805
                if inner.batches is None:  # Keras makes some that it never asks
                    inner.batches, inner.taken = self._begin()
                return self._batch(inner)

            def get_state(inner) -> Any:  # noqa: N805
                return inner.batches.get_state()

            def set_state(inner, state: Any) -> None:  # noqa: N805
                inner.batches.set_state(state)

        return Dataset()

    def _batch(self, iterator: Any) -> Any:
        try:
            batch = next(iterator.batches)
        except StopIteration:
            if iterator.taken < self._needed:
                self._say("it ran out of batches within an epoch: add .repeat() at its end")
            raise
        iterator.taken += 1
        self._states[iterator.taken] = iterator.batches.get_state()
        self._states.pop(iterator.taken - _KEPT, None)
        return batch

    def _begin(self) -> tuple[Any, int]:
        (taken, state), self._next = self._next, (0, None)
        batches = iter(self._dataset)
        if state is not None:
            try:
                batches.set_state(_as_here(state, batches.get_state()))
            except Exception as error:  # noqa: BLE001 - of another version of grain, or other workers
                self._say(f"its iterator does not take the saved place back ({error})")
                batches, state = iter(self._dataset), None
        if state is None:
            for _ in range(taken):
                next(batches)
        return batches, taken

    def _say(self, reason: str) -> None:
        if self._warn is not None:
            self._warn(f"a resume with this data (grain) is not exact: {reason}.")
        self._warn = None


def _as_here(saved: Any, here: Any) -> Any:
    """Return a saved state with the names that this process has.

    A DataLoader compares the words for its source and sampler, which may have addresses in them.
    """
    if not isinstance(saved, bytes):
        return saved
    state = json.loads(saved)
    for name, words in json.loads(here).items():
        if isinstance(words, str) and _ADDRESS.sub("", words) == _ADDRESS.sub("", state[name]):
            state[name] = words
    return json.dumps(state).encode()


def changes(data: Any, *hooks: str) -> bool:
    """Whether it is a PyDataset with such a hook of its own, which may change it."""
    base = keras.utils.PyDataset
    hooks = hooks or ("on_epoch_begin", "on_epoch_end")
    return isinstance(data, base) and any(
        getattr(type(data), name) is not getattr(base, name, None) for name in hooks
    )


def names_in_hooks(cls: Any) -> set[str]:
    """Return the attributes that a PyDataset's hooks may change, and the methods beside them.

    Keras calls `on_epoch_end` before the training, too: what that has made is not as given.
    """
    others = ("__init__", "__getitem__", "__len__")
    return names_in_code(cls, lambda base: not is_library(base.__module__), but=others)


def first_batch(dataset: Any) -> Any:
    """Return the first batch of a PyDataset or of grain's data."""
    if hasattr(dataset, "__getitem__"):
        return dataset[0]
    batches = iter(dataset)
    batch = next(batches)
    if hasattr(batches, "close"):
        batches.close()
    return batch


def is_random(dataset: Any) -> bool:
    """Whether a batch is another when it is drawn once more, or a generator is asked for it.

    All generators are put back.
    """
    own = [value for value in vars(dataset).values() if kind_of(value) in GENERATORS]
    before, states = generators(), [CALLS[kind_of(one)].look(one) for one in own]
    one, other = (_print(first_batch(dataset)) for _ in range(2))
    after, later = generators(), [CALLS[kind_of(one)].look(one) for one in own]
    set_generators(before)
    for generator, state in zip(own, states, strict=True):
        CALLS[kind_of(generator)].put_back(generator, state)
    return one != other or before != after or digest(states) != digest(later)


def _print(batch: Any) -> Any:
    return digest(
        [None if part is None else np.asarray(part) for part in keras.tree.flatten(batch)]
    )
