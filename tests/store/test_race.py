"""Of all that create one key, one wins, and nobody sees part of a record."""

from collections import Counter
from collections.abc import Sequence

import pytest

from runner.store.base import Created
from tests.store.conftest import Place
from tests.store.memory import MemoryStore
from tests.store.racing import PROCESSES, THREADS, Attempt, race, race_in_threads

ROUNDS = 200


def check(attempts: Sequence[Attempt], rounds: int) -> None:
    winners = {a.round: a.racer for a in attempts if a.said is Created.YES}
    wins = Counter(a.round for a in attempts if a.said is Created.YES)
    assert len(attempts) == rounds * PROCESSES * THREADS
    assert wins == dict.fromkeys(range(rounds), 1)
    assert all(a.said is not Created.UNKNOWN for a in attempts)
    assert all(a.read == winners[a.round] for a in attempts)


@pytest.mark.slow
def test_32_racers_in_4_processes_have_one_winner(place: Place) -> None:
    """A folder decides 200 rounds in seconds; the buckets' clients take 16 ms a request."""
    rounds = ROUNDS if "://" not in place.url else 20
    check(race(place.url, place.environment, rounds), rounds)


@pytest.mark.chaos
def test_32_racers_have_one_winner_again_and_again(place: Place) -> None:
    rounds = ROUNDS if "://" in place.url else 5 * ROUNDS
    check(race(place.url, place.environment, rounds), rounds)


def test_32_threads_have_one_winner_in_memory() -> None:
    check(race_in_threads(MemoryStore(), ROUNDS), ROUNDS)
