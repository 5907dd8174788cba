"""A message when a job succeeds, fails, is held or lost: by real workers to real servers."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.engine import messages, notifier
from runner.engine.messages import Message, Service, message, open_services
from runner.engine.notifier import CLAIM_SECONDS, SINCE, Notifier
from runner.errors import StoreError
from runner.queue.job import Job
from runner.queue.queue import Queue
from runner.queue.removal import leftovers
from runner.store.log import encode
from tests.engine.receivers import PASSWORDS, Mail, Web
from tests.harness import Process, Runner, need
from tests.store.memory import Killed, MemoryStore

LONG_AGO = "2020-01-01T00:00:00+00:00"
DEAD = {"host": "elsewhere", "pid": 1}
COUNTING = "tests.engine.counting_worker"


@pytest.fixture
def web() -> Iterator[Web]:
    need("apprise")
    receiver = Web()
    with receiver.open():
        yield receiver


class Shop(Runner):
    """A store in a folder, whose workers count and send messages."""

    def work(self, *arguments: str, sabotage: str = "", **environment: str) -> str:
        """Work until nothing is left, or the death; what the worker said."""
        process = self.begin(*arguments, SABOTAGE=sabotage, **environment)
        out, err = process.communicate(timeout=120)
        assert (process.returncode == -9) == bool(sabotage), err
        return out + err

    def begin(self, *arguments: str, **environment: str) -> Process:
        return self.start(*(arguments or ["resume"]), module=COUNTING, environment=environment)

    def submit(self, *names: str, **spec: object) -> None:
        for name in names:
            self.queue().submit(name, {"name": name, "evaluation": {}, **spec})

    def let_claims_lapse(self) -> None:
        """As if those who claimed a message had been silent since."""
        before = time.time() - CLAIM_SECONDS - 10
        claims = list(self.store.glob("jobs/*/notified/*-claim-*"))
        assert claims
        for path in claims:
            os.utime(path, (before, before))

    def started(self, when: str = LONG_AGO) -> None:
        """As if a worker with messages had begun then."""
        self.queue().store.put(SINCE, encode({"since": when}))


@pytest.fixture
def shop(tmp_path: Path, web: Web) -> Shop:
    return Shop(tmp_path / "store", {"RUNNER_NOTIFY": web.url}, warm=True)


def marks(shop: Shop, name: str) -> list[str]:
    """The markers of a job, by their ends."""
    folder = shop.store / "jobs" / name / "notified"
    return (
        sorted(path.stem.split("-", 2)[2] for path in folder.glob("*")) if folder.exists() else []
    )


# ---------------------------------------------------------------------- what is said, and to whom


def test_mail_and_web_are_told_once_what_happened(shop: Shop, web: Web) -> None:
    """Succeeded, failed and held; nobody sees a password, nowhere."""
    need("aiosmtpd")
    mail = Mail()
    shop.submit("cats", "bad")
    shop.submit("late", after=["bad"])
    both = {"RUNNER_NOTIFY": f"{web.url}, {mail.url}"}
    with mail.open():
        said = shop.work(**both) + shop.work(**both)
        said += shop.work("notify", **both) + shop.work("doctor", **both)
    titles = [
        "runner: a test",
        *(f"runner: {one}" for one in ("bad failed", "cats succeeded", "late held")),
    ]
    assert web.titles == titles
    assert sorted(one["Subject"] for one in mail.got) == titles
    bodies = {one["title"]: one["message"] for one in web.got}
    succeeded = bodies["runner: cats succeeded"]
    store = f"--store file://{shop.store}"
    assert "test top_1 1.0000" in succeeded
    assert "3 steps" in succeeded
    assert f"runner report cats {store}" in succeeded
    assert "training: bad came to no good." in bodies["runner: bad failed"]
    assert f"runner logs bad {store}" in bodies["runner: bad failed"]
    assert "it is to come after bad, which is failed" in bodies["runner: late held"]
    (mailed,) = [one for one in mail.got if one["Subject"].endswith("cats succeeded")]
    assert "test top_1 1.0000" in mailed.get_body().get_content()
    everything = said + "".join(
        path.read_text(errors="replace") for path in shop.store.rglob("*") if path.is_file()
    )
    assert "json://ann:****@127.0.0.1" in everything
    assert "mailto://bob:****@127.0.0.1" in everything
    for password in PASSWORDS:
        assert password not in everything


def test_markers_are_the_jobs_own(shop: Shop, web: Web) -> None:
    """They count as its records, are no leftovers, and go with it; its name tells anew then."""
    shop.submit("cats")
    shop.work()
    assert marks(shop, "cats") == ["claim-1", "sent"]
    held = json.loads(shop.ok("du", "--json"))["cats"]
    assert held["other"] == 0
    queue = shop.queue()
    assert leftovers(queue.store, ["cats"], older_than=0.0) == {}
    queue.remove("cats")
    assert queue.store.list("jobs/") == []
    shop.submit("cats", seed=2)
    shop.work()
    assert web.titles == ["runner: cats succeeded"] * 2


def test_what_ended_before_anyone_asked_is_not_told(shop: Shop, web: Web) -> None:
    """Nor what nobody could tell for a week; a user's own commands tell the user nothing new."""
    shop.submit("before", "gone")
    shop.work(RUNNER_NOTIFY="")
    shop.queue().submit("cancelled", {"seed": 1})
    shop.queue().cancel("cancelled")
    shop.work()
    assert web.titles == []
    shop.submit("cats")
    shop.work(RUNNER_NOTIFY="")
    shop.work()
    assert web.titles == ["runner: cats succeeded"], "a worker that only looks tells it too"


# ---------------------------------------------------------------------- deaths


def test_killed_between_the_record_and_the_claim(shop: Shop, web: Web) -> None:
    """Whoever looks next tells it."""
    shop.submit("cats")
    shop.work(sabotage="finished:2")
    assert web.titles == []
    shop.work()
    shop.work()
    assert web.titles == ["runner: cats succeeded"]


@pytest.mark.parametrize(("death", "times"), [("sending", 1), ("sent", 2)])
def test_an_end_is_told_at_least_once(shop: Shop, web: Web, death: str, times: int) -> None:
    """Killed before the message left, or right after: nobody knows which, so it is told again."""
    shop.submit("cats")
    shop.work(sabotage=death)
    before = web.titles
    shop.work()
    assert web.titles == before, "the other may still be at it"
    shop.let_claims_lapse()
    shop.work()
    shop.work()
    assert web.titles == ["runner: cats succeeded"] * times
    assert marks(shop, "cats") == ["claim-1", "claim-2", "sent"]


@pytest.mark.parametrize(("death", "times"), [("sending", 0), ("sent", 1)])
def test_what_is_no_end_is_told_at_most_once(shop: Shop, web: Web, death: str, times: int) -> None:
    shop.submit("late", after=["gone"])
    shop.submit("gone")
    shop.queue().cancel("gone")
    shop.work(sabotage=death)
    shop.let_claims_lapse()
    shop.work()
    assert web.titles == ["runner: late held"] * times


def test_of_several_workers_at_once_one_tells_it(shop: Shop, web: Web) -> None:
    """What they did themselves, and what is left by one that could not."""
    shop.started()
    left = [f"left-{number}" for number in range(6)]
    shop.submit(*left)
    shop.work(RUNNER_NOTIFY="")
    names = [f"cats-{number}" for number in range(6)]
    shop.submit(*names)
    workers = [shop.begin() for _ in range(3)]
    for worker in workers:
        worker.communicate(timeout=120)
    assert web.titles == [f"runner: {name} succeeded" for name in (*names, *left)]


# ---------------------------------------------------------------------- servers that fail


def test_a_server_that_is_away_is_told_later(tmp_path: Path) -> None:
    """By the next worker, at once: who could not send leaves no claim. The job is none the worse."""
    need("apprise")
    web = Web()
    shop = Shop(tmp_path, {"RUNNER_NOTIFY": web.url}, warm=True)
    shop.submit("cats")
    said = shop.work()
    assert "cats: succeeded" in said
    assert "not sent to json://ann:****@127.0.0.1" in said
    assert "tried again in 60s" in said
    assert marks(shop, "cats") == []
    with web.open():
        shop.work()
        shop.work()
    assert web.titles == ["runner: cats succeeded"]


def test_the_same_worker_tells_it_when_the_server_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("apprise")
    web = Web()
    shop = Shop(tmp_path)
    shop.started()
    shop.submit("cats")
    shop.work()
    monkeypatch.setattr(notifier, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(notifier._Pending, "pause", 0.05)
    said: list[str] = []
    telling = Notifier(shop.queue(), web.url, said.append)
    telling.start()
    until(lambda: len(said) >= 2)
    with web.open():
        until(lambda: bool(web.got))
        until(lambda: marks(shop, "cats") == ["claim-1", "sent"])
        telling.close(60)
    assert web.titles == ["runner: cats succeeded"]
    assert [PASSWORDS[0] in line for line in said].count(True) == 0


def test_one_of_two_services_is_enough(shop: Shop, web: Web) -> None:
    """A message that one took is not sent to it again for the other's sake."""
    shop.submit("cats")
    urls = {"RUNNER_NOTIFY": f"json://localhost:1 {web.url}"}
    said = shop.work(**urls) + shop.work(**urls)
    assert web.titles == ["runner: cats succeeded"]
    assert "another has it" in said


def until(condition: "object") -> None:
    assert callable(condition)
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------------- lost


def test_a_job_that_is_lost_is_told_once(shop: Shop, web: Web) -> None:
    """By a worker that can't take it over; the same attempt never again, a later one anew."""
    shop.started((datetime.now(UTC) - timedelta(hours=3)).isoformat())
    shop.submit("cats", requirements={"labels": ["elsewhere"]})
    queue = shop.queue()
    queue.claim(queue.job("cats"), DEAD).renew(step=1)
    shop.work()
    assert web.titles == []
    lose(shop, "cats", hours=2)
    shop.work(RUNNER_NOTIFY_LOST="3h")
    assert web.titles == []
    shop.work()
    shop.work()
    queue.prioritize("cats", 5)
    lose(shop, "cats", hours=2)
    shop.work()
    assert web.titles == ["runner: cats lost"]
    assert "worker elsewhere:1 gave no sign of life for 2h" in web.got[0]["message"]
    assert "runner resume cats" in web.got[0]["message"]


def lose(shop: Shop, name: str, *, hours: float) -> None:
    before = time.time() - hours * 3600
    for path in (shop.store / "jobs" / name).rglob("*.json"):
        if "notified" not in path.parts:
            os.utime(path, (before, before))
