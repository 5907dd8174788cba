"""A job is removed whole: a death at any call leaves the job, or what nothing stumbles over."""

from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from runner.commit import Commit
from runner.errors import ConflictError, LeaseLostError, NotFoundError, StoreError
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


@pytest.mark.parametrize("commits", [None, 0, 1, 2, 3])
def test_a_removal_that_sleeps_before_its_record_touches_no_later_job(commits: int | None) -> None:
    shop = Shop()
    new: list[Any] = []
    there: list[str] = []

    def thaw(_number: int, operation: str, _key: str) -> None:
        if operation != "create":
            return
        shop.store.hook = None
        shop.queue.remove("cats")
        shop.now += 1.0
        job = shop.queue.submit("cats", {"seed": 2})
        if commits is not None:
            new.append(shop.queue.claim(job, {"host": "new", "pid": 1}))
            new[0].renew(step=1)
            for step in range(1, commits + 1):
                new[0].commit(Commit(step=step, epoch=0))
        shop.store.put("jobs/cats/packs/t1-new.safetensors", b"x")
        there.extend(shop.store.list("jobs/"))

    shop.store.hook = thaw
    with pytest.raises((ConflictError, StoreError)):
        shop.queue.remove("cats")
    shop.store.hook = None
    assert shop.store.list("jobs/") == there
    for lease in new:
        lease.commit(Commit(step=9, epoch=0))
    assert shop.queue.job("cats").step == (9 if new else 0)


@pytest.mark.parametrize("repair", [True, False])
def test_a_leftover_that_is_submitted_meanwhile_stays_a_job(repair: bool) -> None:
    """`doctor --repair`, or a user, judged it to be none, and some calls later it is one."""
    stayed = 0
    for call in range(1, 12):
        shop = Shop()
        shop.store.put("jobs/dogs/packs/t0-aa.safetensors", b"x")
        shop.now += HOUR
        assert shop.leftovers() == {"dogs": "it has no record: its submit was cut off"}
        first = shop.store.operations
        shop.store.hook = partial(submits_dogs, shop, first + call)
        if repair:
            shop.queue.remove_leftover("dogs", older_than=HOUR)
        else:
            with suppress(ConflictError):
                shop.queue.remove("dogs")
        shop.store.hook = None
        if shop.store.folders("jobs/") == ["cats"]:  # it was over before; or the user's wish
            continue
        assert shop.jobs() == ["cats", "dogs"]
        assert shop.queue.spec("dogs") == {"seed": 2}
        stayed += 1
    assert stayed >= 6  # all but before the first look, and after the last call


def test_what_a_submit_under_way_brings_again_is_no_leftover() -> None:
    shop = Shop()
    shop.store.put("jobs/dogs/packs/t0-aa.safetensors", b"x")
    shop.store.put("jobs/dogs/packs/t0-bb.safetensors", b"x")
    shop.now += HOUR
    shop.store.put("jobs/dogs/packs/t0-bb.safetensors", b"x")
    shop.queue.remove_leftover("dogs", older_than=HOUR)
    assert shop.store.list("jobs/dogs/") == ["jobs/dogs/packs/t0-bb.safetensors"]


def test_a_leftover_that_nobody_can_read_any_more_is_not_deleted_by_itself() -> None:
    """Only its user may say that it shall go."""
    shop = Shop()
    killed_at(shop, 12)
    for number in range(5):
        shop.store.put(log.slot("jobs/cats", number), b"{}")
    shop.store.put(log.hint("jobs/cats"), b"{}")
    there = shop.store.list("jobs/")
    assert not shop.queue.remove_leftover("cats", older_than=0.0)
    assert shop.store.list("jobs/") == there
    shop.queue.remove("cats")
    assert shop.store.list("jobs/") == []


@pytest.mark.parametrize("call", range(1, 14, 2))
def test_a_removal_that_another_goes_on_with_takes_nothing_back(call: int) -> None:
    """The other one died in the middle of it, and its first remover wakes after its record."""
    shop = Shop()
    created = False

    def other(_number: int, operation: str, _key: str) -> None:
        nonlocal created
        if created:
            with suppress(Killed):
                killed_at(shop, call)
        created = operation == "create"

    shop.store.hook = other
    shop.queue.remove("cats")
    assert shop.jobs() == []
    shop.store.hook = None
    with suppress(NotFoundError):
        shop.queue.remove("cats")
    assert shop.store.list("jobs/") == []


def submits_dogs(shop: Shop, at: int, number: int, _operation: str, _key: str) -> None:
    if number == at:
        shop.store.hook = None
        shop.queue.submit("dogs", {"seed": 2})


@pytest.mark.parametrize("changes", [("retry",), ("retry", "hold", "unhold")])
def test_what_a_user_did_after_a_cancel_makes_no_worker_know_of_it(changes: tuple[str]) -> None:
    shop = Shop()
    shop.queue.submit("dogs", {"seed": 1})
    shop.queue.claim(shop.queue.job("dogs"), {"host": "elsewhere", "pid": 1}).renew()
    shop.queue.cancel("dogs")
    for change in changes:
        getattr(shop.queue, change)("dogs")
    with pytest.raises(ConflictError, match="Try again in 60 s"):
        shop.queue.remove("dogs")
    shop.now += 61.0
    shop.queue.remove("dogs")
    assert shop.jobs() == ["cats"]


def test_a_job_with_a_damaged_record_can_be_removed() -> None:
    shop = Shop()
    shop.queue.evaluate("cats")
    shop.store.put(log.slot("jobs/cats", 3), b"{}")
    shop.queue.remove("cats")
    assert shop.store.list("jobs/") == []


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
