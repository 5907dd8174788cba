"""Attempts and interruptions are what the records say, wherever a training was cut short."""

from datetime import timedelta

import pytest

from runner.errors import ConflictError
from runner.report.attempts import Ending
from runner.report.collect import Run, collect
from tests.report.fakes import STEPS, World, history
from tests.store.memory import MemoryStore


@pytest.fixture
def world() -> World:
    return World(MemoryStore())


def only(world: World) -> Run:
    (run,) = collect(world.queue, [], now=world.clock()).runs
    return run


def test_deaths_are_lost_attempts_and_marks_where_the_next_goes_on(world: World) -> None:
    """Died at steps 47 and 135 with a checkpoint every ten: on from 40 and 130."""
    world.submit("cats")
    world.finish(world.train("cats", history(10), 47, 135))
    run = only(world)
    assert [one.ending for one in run.attempts] == [Ending.LOST, Ending.LOST, Ending.FINISHED]
    assert [one.host for one in run.attempts] == ["gpu-1", "gpu-2", "gpu-3"]
    assert [one.lost_steps for one in run.attempts] == [7, 5, 0]
    assert [(mark.saved_step, mark.saved_epoch) for mark in run.interruptions] == [
        (40, 40 / STEPS),
        (130, 130 / STEPS),
    ]
    assert run.epochs == 10
    assert run.history["val_loss"] == tuple(history(10)["val_loss"])


def test_a_lost_attempt_ends_with_its_last_sign_of_life(world: World) -> None:
    """Not with the claim of its successor, ten minutes later."""
    world.submit("cats")
    began = world.clock()
    world.train("cats", history(2), 20)
    first = only(world).attempts[0]
    assert first.began_at == began
    assert first.ended_at == began + timedelta(seconds=90)


def test_what_holds_a_job_tells_how_its_attempt_ended(world: World) -> None:
    """Held by its owner it is saved; held for an owner that died it is lost."""
    world.submit("cats")
    lease = world.claim("cats")
    world.queue.hold("cats")
    world.save(lease, history(3), 30)
    lease.release("asked")
    world.queue.unhold("cats")
    world.save(world.claim("cats"), history(3), 40)
    world.queue.hold("cats")
    with pytest.raises(ConflictError, match="held by its user"):
        world.claim("cats")
    first, second = only(world).attempts
    assert (first.ending, second.ending) == (Ending.HELD, Ending.LOST)
    assert (first.saved_step, first.lost_steps) == (30, 0)
    assert only(world).job.preempted == 0


def test_a_preempted_attempt_lost_nothing(world: World) -> None:
    """It saved before it gave the job back."""
    world.submit("cats")
    lease = world.claim("cats")
    world.save(lease, history(3), 30)
    lease.renew(step=30, epoch=1)
    lease.release("SIGTERM")
    run = only(world)
    (one,) = run.attempts
    assert (one.ending, one.lost_steps, one.reason) == (Ending.PREEMPTED, 0, "SIGTERM")
    assert [(mark.ending, mark.saved_epoch) for mark in run.interruptions] == [
        (Ending.PREEMPTED, 1.5)
    ]


def test_an_attempt_that_runs_has_no_end_and_no_mark(world: World) -> None:
    world.submit("cats")
    lease = world.claim("cats")
    world.save(lease, history(3), 30)
    run = only(world)
    assert run.state == "running"
    assert [(one.ending, one.ended_at, one.lost_steps) for one in run.attempts] == [
        (Ending.RUNNING, None, None)
    ]
    assert run.interruptions == []


def test_a_cancelled_training_is_marked_and_its_evaluation_never(world: World) -> None:
    world.submit("cats")
    lease = world.claim("cats")
    world.save(lease, history(3), 30)
    world.queue.cancel("cats")
    run = only(world)
    assert [mark.ending for mark in run.interruptions] == [Ending.CANCELLED]


def test_without_an_epoch_done_the_heartbeat_tells_how_long_one_is(world: World) -> None:
    """Dead at step 5 of 20: a quarter of an epoch."""
    world.submit("cats")
    lease = world.claim("cats")
    world.save(lease, history(3), 5)
    lease.renew(step=8, epoch=0, details={"stage": "train", "steps": STEPS})
    world.claim("cats")
    assert [mark.saved_epoch for mark in only(world).interruptions] == [0.25]
