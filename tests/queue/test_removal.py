"""A job is removed whole: a death at any call leaves the job, or what nothing stumbles over."""

from contextlib import suppress

import pytest

from runner.commit import Commit
from runner.errors import ConflictError, LeaseLostError, NotFoundError
from runner.queue.job import State
from runner.queue.queue import Queue
from runner.queue.removal import leftovers
from runner.queue.view import Onlooker
from runner.store import log
from runner.store.checkup import Verdict, check_up
from tests.store.memory import Fault, Killed, MemoryStore

HOUR = 3600.0


class Shop:
    """A store with a job that has ended, and objects of every kind."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(clock=lambda: self.now)
        self.queue = Queue(self.store, clock=lambda: self.now)
        job = self.queue.submit("cats", {"seed": 1})
        lease = self.queue.claim(job, {"host": "here", "pid": 1})
        lease.renew(step=1)
        lease.commit(Commit(step=1, epoch=0))
        lease.finish(final={"step": 1, "manifest": "m", "digest": "d"}, evaluate=False)
        for name in ("packs/t1-aa.safetensors", "checkpoints/t1-s1-aa.json", "logs/000001.log"):
            self.store.put(f"jobs/cats/{name}", b"x")
        self.now += 100.0

    def jobs(self) -> list[str]:
        """The jobs that people see; nothing may be unreadable."""
        onlooker = Onlooker(self.queue)
        names = [view.job.id for view in onlooker.look()]
        assert not onlooker.problems
        return names

    def leftovers(self) -> dict[str, str]:
        return leftovers(self.store, self.store.folders("jobs/"), older_than=HOUR)


def test_a_removed_job_is_gone_and_its_name_is_free() -> None:
    shop = Shop()
    shop.queue.remove("cats")
    assert shop.store.list("jobs/") == []
    with pytest.raises(NotFoundError):
        shop.queue.remove("cats")
    assert shop.queue.submit("cats", {"seed": 2}).state is State.QUEUED


def test_a_removal_that_is_killed_at_any_call() -> None:
    shop = Shop()
    before = shop.store.operations
    shop.queue.remove("cats")
    calls = shop.store.operations - before
    assert calls > 15
    for call in range(1, calls + 1):
        shop = Shop()
        killed_at(shop, call)
        left = shop.leftovers()
        assert shop.jobs() == ([] if left else ["cats"]), f"after call {call}"
        assert left in ({}, {"cats": "its removal was cut off"})
        records = {one.name: one for one in check_up(shop.store)}["records"]
        assert records.verdict is Verdict.OK, records.text
        if left and log.slot("jobs/cats", 0) in shop.store.list("jobs/cats/log/"):
            with pytest.raises(ConflictError, match=r"runner remove cats.*doctor --repair"):
                shop.queue.submit("cats", {"seed": 1})
            for change in (shop.queue.retry, shop.queue.evaluate, shop.queue.cancel):
                with pytest.raises(NotFoundError):
                    change("cats")
        shop.queue.remove("cats")
        assert shop.store.list("jobs/") == []


def killed_at(shop: Shop, call: int) -> None:
    first = shop.store.operations

    def die(number: int, operation: str, key: str) -> None:
        if number - first >= call:
            raise Killed(f"{operation} {key}")

    shop.store.hook = die
    with pytest.raises(Killed):
        shop.queue.remove("cats")
    shop.store.hook = None


def test_a_name_taken_anew_while_a_removal_was_cut_off_before_its_last_call() -> None:
    """All but the copy of the last record is gone; a lost write of the new copy hides no job."""
    shop = Shop()
    first = shop.store.operations

    def die(number: int, operation: str, key: str) -> None:
        if (operation, key) == ("delete", "jobs/cats/head.json"):
            raise Killed

    shop.store.hook = die
    with pytest.raises(Killed):
        shop.queue.remove("cats")
    assert shop.store.operations > first
    shop.now += 60.0
    shop.store.hook = lambda _, operation, key: (
        Fault.NOT_DONE if (operation, key) == ("put", "jobs/cats/head.json") else None
    )
    shop.queue.submit("cats", {"seed": 2})
    lease = shop.queue.claim(shop.queue.job("cats"), {"host": "there", "pid": 2})
    assert lease.job.spec_digest != ""
    assert shop.jobs() == ["cats"]
    assert shop.queue.spec("cats") == {"seed": 2}


def test_a_running_job_is_not_removed_and_a_lost_one_is() -> None:
    shop = Shop()
    shop.queue.submit("dogs", {"seed": 1})
    lease = shop.queue.claim(shop.queue.job("dogs"), {"host": "elsewhere", "pid": 1})
    lease.renew()
    with pytest.raises(ConflictError, match="Cancel or hold it before"):
        shop.queue.remove("dogs")
    shop.now += 61.0
    shop.queue.remove("dogs")
    with pytest.raises(LeaseLostError):
        lease.commit(Commit(step=1, epoch=0))
    assert shop.jobs() == ["cats"]


def test_a_worker_that_may_not_know_of_a_cancel_is_waited_for() -> None:
    """It would write on, and leave objects of a job that nobody knows any more."""
    shop = Shop()
    shop.queue.submit("dogs", {"seed": 1})
    lease = shop.queue.claim(shop.queue.job("dogs"), {"host": "elsewhere", "pid": 1})
    lease.renew()
    shop.queue.cancel("dogs")
    with pytest.raises(ConflictError, match="Try again in 60 s"):
        shop.queue.remove("dogs")
    shop.now += 61.0
    shop.queue.remove("dogs")
    assert shop.jobs() == ["cats"]


def test_a_remover_that_thaws_touches_no_later_job_of_the_name() -> None:
    """It was frozen at any of its calls; meanwhile its removal was ended and the name taken.

    Only in the very deletion of record 0 can nobody stop it: then that is said, with what to do.
    """
    found = [thawed_at(call) for call in range(5, 26)]
    lost = [left for left in found if "log/000000000000.json" not in left]
    assert lost == [["head.json"]]


def thawed_at(call: int) -> list[str]:
    """What is there of the later job; nothing where the removal had ended before."""
    shop = Shop()
    first = shop.store.operations

    def thaw(number: int, _operation: str, _key: str) -> None:
        if number - first == call:
            shop.store.hook = None
            shop.queue.remove("cats")
            shop.queue.submit("cats", {"seed": 2})

    shop.store.hook = thaw
    with suppress(ConflictError):  # before its record there is a job, and it is another one
        shop.queue.remove("cats")
    shop.store.hook = None
    return [key.removeprefix("jobs/cats/") for key in shop.store.list("jobs/")]
