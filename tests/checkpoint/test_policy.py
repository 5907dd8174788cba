"""When to save and what to keep, as tables."""

import math
from typing import Any

import pytest

from runner.checkpoint.policy import (
    Auto,
    Interval,
    Since,
    daly,
    fits,
    for_job,
    mean_time_between,
    parse,
)
from runner.errors import SpecError


def since(**changes: Any) -> Since:
    return Since(**{"steps": 1, "epochs": 0, "seconds": 0.0, "epoch_end": False, **changes})


@pytest.mark.parametrize(
    ("policy", "moment", "due"),
    [
        (Interval(steps=3), since(steps=2), False),
        (Interval(steps=3), since(steps=3), True),
        (Interval(steps=3), since(steps=7), True),
        (Interval(seconds=30), since(seconds=29.9), False),
        (Interval(seconds=30), since(seconds=30), True),
        (Interval(seconds=30), since(seconds=99, steps=0), False),
        (Interval(epochs=2), since(epochs=1, epoch_end=True), False),
        (Interval(epochs=2), since(epochs=2, epoch_end=True), True),
        (Interval(epochs=1), since(epochs=1, epoch_end=False), False),
        (Interval(epochs=1, seconds=300), since(seconds=299), False),
        (Interval(epochs=1, seconds=300), since(seconds=300), True),
        (Interval(epochs=1, seconds=300), since(seconds=300, steps=0), False),
        (Interval(steps=3, seconds=300), since(steps=3), True),
        (Interval(), since(steps=10**9, seconds=1e9, epochs=9, epoch_end=True), False),
    ],
)
def test_due(policy: Any, moment: Since, due: bool) -> None:
    assert policy.due(moment) is due


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("30s", Interval(seconds=30)),
        ("10m", Interval(seconds=600)),
        ("1.5 h", Interval(seconds=5400)),
        ("200 steps", Interval(steps=200)),
        ("1 step", Interval(steps=1)),
        ("1 epoch", Interval(epochs=1)),
        ("2 Epochs", Interval(epochs=2)),
    ],
)
def test_parse(text: str, policy: Any) -> None:
    assert parse(text) == policy


@pytest.mark.parametrize("text", ["", "30", "0s", "-1s", "1.5 steps", "often", "s", "1 fortnight"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(SpecError, match="30s"):
        parse(text)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Interval(), "never"),
        (Interval(steps=200), "every 200 steps"),
        (Interval(epochs=1), "every epoch"),
        (Interval(epochs=2, seconds=300), "every 2 epochs, at most 300 s"),
        (Interval(seconds=1.5), "every 1.5 s"),
    ],
)
def test_an_interval_is_described_in_words(policy: Interval, words: str) -> None:
    assert policy.describe() == words


def test_daly_is_young_for_small_costs() -> None:
    assert daly(0.01, 14400) == pytest.approx(math.sqrt(2 * 0.01 * 14400), rel=0.01)
    assert daly(0, 100) == 0
    assert daly(500, 100) == 100


@pytest.mark.parametrize("cost", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("mtbf", [600.0, 3600.0, 36000.0])
def test_daly_loses_least(cost: float, mtbf: float) -> None:
    """No interval around it has a smaller expected loss (exact model, exponential failures)."""

    def time_per_work(interval: float) -> float:
        return mtbf * (math.exp((interval + cost) / mtbf) - 1) / interval

    best = daly(cost, mtbf)
    optimum = min((best * f for f in [x / 100 for x in range(30, 300)]), key=time_per_work)
    assert time_per_work(best) <= time_per_work(optimum) * 1.0005


@pytest.mark.parametrize(
    ("cost", "expected", "reason"),
    [
        (0.0, 5.0, "as soon as it is known"),
        (0.001, 5.0, "shortest"),
        (0.01, daly(0.01, 3600), "Young/Daly"),
        (2.0, 200.0, "overhead"),
        (20.0, 600.0, "max_loss"),
    ],
)
def test_auto_interval(cost: float, expected: float, reason: str) -> None:
    auto = Auto(mtbf_seconds=3600, max_loss_seconds=600)
    assert auto.interval_seconds(cost) == pytest.approx(expected)
    assert reason in auto.describe(cost)
    assert not auto.due(since(seconds=expected * 0.99, cost_seconds=cost))
    assert auto.due(since(seconds=expected * 1.01, cost_seconds=cost))


def test_the_interval_of_a_job_follows_what_it_has_been_through() -> None:
    def interval(text: str, hours: float, interruptions: int) -> Any:
        return for_job(
            text,
            max_loss_seconds=600,
            running_seconds=hours * 3600,
            interruptions=interruptions,
        )

    assert interval("200 steps", 1, 0) == Interval(steps=200, seconds=300)
    calm, wild = interval("auto", 10, 0), interval("auto", 10, 99)
    assert calm.interval_seconds(0.1) > 3 * wild.interval_seconds(0.1)
    assert interval("auto", 1e6, 0).interval_seconds(1.0) == 300, "half of max_loss"
    assert "an interruption every 14 h, assumed, none seen yet;" in calm.describe(0.1)
    assert "an interruption every 0.14 h, 99 seen;" in wild.describe(0.1)


def test_mean_time_between_goes_from_the_prior_to_the_history() -> None:
    assert mean_time_between(running_seconds=0, interruptions=0, prior_seconds=1000) == 1000
    late = mean_time_between(running_seconds=360_000, interruptions=99, prior_seconds=1000)
    assert late == pytest.approx(3610)


def test_a_last_checkpoint_is_begun_only_if_it_is_likely_to_end_in_time() -> None:
    assert fits(expected_seconds=100, left_seconds=None), "nothing limits it"
    assert fits(expected_seconds=10, left_seconds=15)
    assert not fits(expected_seconds=10, left_seconds=14), "the last one may have been lucky"
    assert fits(expected_seconds=0, left_seconds=1), "nothing is known: try"
    assert not fits(expected_seconds=0, left_seconds=0)
