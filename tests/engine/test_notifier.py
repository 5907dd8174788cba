"""A message when a job succeeds, fails, is held or lost: by real workers to real servers."""

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from runner.cli import working
from runner.engine import messages, notifier, running, worker
from runner.engine.messages import Message, Service, message, open_services
from runner.engine.notifier import CLAIM_SECONDS, SINCE, Notifier
from runner.engine.preemption import StopRequest
from runner.queue.queue import Queue
from runner.queue.removal import leftovers
from runner.store.log import encode
from tests.engine.counting import Counting
from tests.engine.counting import Shop as Counted
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

    def let_claims_expire(self) -> None:
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
    return Shop(tmp_path / "store", {"RUNNER_NOTIFY": web.url})


def marks(shop: Shop, name: str) -> list[str]:
    """The markers of a job, by their ends."""
    folder = shop.store / "jobs" / name / "notified"
    return sorted(path.stem.split("-", 2)[2] for path in folder.glob("*.json"))


# ---------------------------------------------------------------------- what is said, and to whom


@pytest.mark.slow
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


@pytest.mark.chaos
def test_killed_between_the_record_and_the_claim(shop: Shop, web: Web) -> None:
    """Whoever looks next tells it."""
    shop.submit("cats")
    shop.work(sabotage="finished:2")
    assert web.titles == []
    shop.work()
    shop.work()
    assert web.titles == ["runner: cats succeeded"]


@pytest.mark.slow
@pytest.mark.parametrize(("death", "times"), [("sending", 1), ("sent", 2)])
def test_an_end_is_told_at_least_once(shop: Shop, web: Web, death: str, times: int) -> None:
    """Killed before the message left, or right after: nobody knows which, so it is told again."""
    shop.submit("cats")
    shop.work(sabotage=death)
    before = web.titles
    shop.work()
    assert web.titles == before, "the other may still be at it"
    shop.let_claims_expire()
    shop.work()
    shop.work()
    assert web.titles == ["runner: cats succeeded"] * times
    assert marks(shop, "cats") == ["claim-1", "claim-2", "sent"]


@pytest.mark.chaos
@pytest.mark.parametrize(("death", "times"), [("sending", 0), ("sent", 1)])
def test_what_is_no_end_is_told_at_most_once(shop: Shop, web: Web, death: str, times: int) -> None:
    shop.submit("late", after=["gone"])
    shop.submit("gone")
    shop.queue().cancel("gone")
    shop.work(sabotage=death)
    shop.let_claims_expire()
    shop.work()
    assert web.titles == ["runner: late held"] * times


@pytest.mark.chaos
def test_of_several_workers_at_once_one_tells_it(shop: Shop, web: Web) -> None:
    """What they did themselves, and what is left by one that could not."""
    shop.started()
    left = [f"left-{number}" for number in range(6)]
    shop.submit(*left)
    shop.work(RUNNER_NOTIFY="")
    names = [f"cats-{number}" for number in range(6)]
    shop.submit(*names)
    workers = [shop.begin() for _ in range(3)]
    for process in workers:
        process.communicate(timeout=120)
    assert web.titles == [f"runner: {name} succeeded" for name in (*names, *left)]


# ---------------------------------------------------------------------- servers that fail


@pytest.mark.chaos
def test_a_server_that_is_away_is_told_later(tmp_path: Path) -> None:
    """By the next worker, at once: who could not send leaves no claim. The job has succeeded."""
    need("apprise")
    web = Web()
    shop = Shop(tmp_path, {"RUNNER_NOTIFY": web.url})
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
    said: list[str] = []
    telling = Notifier(shop.queue(), web.url, said.append)
    telling.start()
    until(lambda: len(said) >= 2)
    with web.open():
        until(lambda: bool(web.got))
        until(lambda: marks(shop, "cats") == ["claim-1", "sent"])
        telling.close(60)
    assert web.titles == ["runner: cats succeeded"]
    assert not [line for line in said if PASSWORDS[0] in line]


def test_one_of_two_services_is_enough(shop: Shop, web: Web) -> None:
    """A message that one took is not sent to it again for the other's sake."""
    shop.submit("cats")
    urls = {"RUNNER_NOTIFY": f"json://localhost:1 {web.url}"}
    said = shop.work(**urls) + shop.work(**urls)
    assert web.titles == ["runner: cats succeeded"]
    assert "another has it" in said


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------------- lost


@pytest.mark.slow
def test_a_job_that_is_lost_is_told_once(shop: Shop, web: Web) -> None:
    """By a worker that can't take it over; the same attempt never again, a later one anew."""
    shop.started((datetime.now(UTC) - timedelta(hours=3)).isoformat())
    shop.submit("cats", requirements={"labels": ["elsewhere"]})
    queue = shop.queue()
    queue.claim(queue.job("cats"), DEAD).renew(step=1)
    lose(shop, "cats", hours=0.2)
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


# ---------------------------------------------------------------------- a death at any call


class Sent(list[str]):
    """The titles of what was sent, by services that take everything; or a death in the sending."""

    death = ""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    titles = Sent()

    def send(_services: object, message: Message) -> dict[Service, str]:
        if titles.death == "before":
            raise Killed
        titles.append(message.title)
        if titles.death == "after":
            raise Killed
        return {Service("json://localhost", None, "json://localhost"): ""}

    monkeypatch.setattr(notifier, "open_services", lambda _: ([None], []))
    monkeypatch.setattr(notifier, "send", send)
    return titles


def tell(store: MemoryStore) -> None:
    """Look once and send what is due, as a worker at its end does."""
    telling = Notifier(Queue(store), "", lambda _: None)
    telling._inbox.put(None)
    telling.run()


@pytest.mark.chaos
@pytest.mark.parametrize("ends", [True, False])
def test_a_death_at_any_call(sent: Sent, ends: bool) -> None:
    """An end is told once, or twice; what is no end at most once. Then never again."""
    now = 1000.0
    before = MemoryStore(clock=lambda: now)
    before.put(SINCE, encode({"since": LONG_AGO}))
    queue = Queue(before)
    lease = queue.claim(queue.submit("cats", {"seed": 1}), DEAD)
    lease.finish(final={"step": 1}, evaluate=False) if ends else lease.hold("over budget")
    whole = before.copy()
    tell(whole)
    times = Counter[int]()
    for death in ("before", "after", *range(1, whole.operations + 1)):
        sent.clear()
        store = before.copy()
        sent.death = str(death)
        store.hook = partial(die_before, death)
        with suppress(Killed):
            tell(store)
        sent.death, store.hook = "", None
        for _ in range(3):
            tell(store)
            now += CLAIM_SECONDS + 1
        times[len(sent)] += 1
    assert times.keys() == ({1, 2} if ends else {0, 1}), times


def die_before(call: object, number: int, *_: str) -> None:
    if number == call:
        raise Killed


def look_before(store: MemoryStore, call: int, number: int, *_: str) -> None:
    """Let another worker look right before a call."""
    if number == call:
        store.hook = None
        tell(store)


@pytest.mark.chaos
def test_two_of_them_at_every_call(sent: list[str]) -> None:
    """Another worker looks right before any call of the first: one of them tells it."""
    before = MemoryStore()
    before.put(SINCE, encode({"since": LONG_AGO}))
    queue = Queue(before)
    queue.claim(queue.submit("cats", {"seed": 1}), DEAD).finish(final={"step": 1}, evaluate=False)
    whole = before.copy()
    tell(whole)
    for call in range(1, whole.operations + 1):
        store = before.copy()
        sent.clear()

        store.hook = partial(look_before, store, call)
        tell(store)
        assert sent == ["runner: cats succeeded"], call


# ---------------------------------------------------------------------- off, or not to be had


def test_off_it_is_not_even_imported(shop: Shop, web: Web) -> None:
    shop.submit("cats")
    imported = shop.work(RUNNER_NOTIFY=" ", SAY_IMPORTS="1").split()
    assert "runner.engine.worker" in imported
    assert not {"apprise", "runner.engine.notifier", "runner.engine.messages"} & {*imported}
    store = shop.queue().store
    assert not [key for key in store.list("") if "notif" in key]
    assert web.titles == []


def test_off_it_asks_the_store_for_nothing(
    sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for is what is asked for without the feature, call for call."""

    def calls() -> Counter[tuple[str, str]]:
        asked: Counter[tuple[str, str]] = Counter()
        shop = Counted(monkeypatch)
        shop.submit("cats")
        shop.submit("late", after=["gone"])
        shop.submit("gone")
        shop.queue.cancel("gone")

        def hook(_number: int, operation: str, key: str) -> None:
            if threading.current_thread().name != "heartbeat":  # which beats as time allows
                asked[operation, "clock" if key.startswith("clock/") else key] += 1

        shop.store.hook = hook
        monkeypatch.setattr(running, "run_stage", Counting())
        monkeypatch.setattr(worker, "import_keras", lambda: None)
        working.work(shop.queue, None, StopRequest())
        return asked

    monkeypatch.setenv("RUNNER_NOTICES", "off")
    off = calls()
    with monkeypatch.context() as patch:
        patch.setattr(working, "_notifying", lambda *_: nullcontext())
        assert calls() == off
    assert sent == []
    monkeypatch.setenv("RUNNER_NOTIFY", "json://localhost")
    on = calls()
    assert on > off
    assert sorted(sent) == ["runner: cats succeeded", "runner: late held"]


@pytest.mark.chaos
def test_without_apprise_the_work_goes_on(shop: Shop) -> None:
    """One sentence with what to install; so says the command, which ends with 2."""
    need = "messages need apprise: pip install apprise"
    shop.submit("cats")
    said = shop.work(WITHOUT="apprise")
    assert f"RUNNER_NOTIFY: {need}" in said
    assert "cats: succeeded" in said
    command = shop.begin("notify", WITHOUT="apprise")
    assert command.communicate(timeout=120) == ("", f"runner: {need}\n")
    assert command.returncode == 2


# ---------------------------------------------------------------------- services


def test_the_command_says_what_was_delivered(shop: Shop, web: Web) -> None:
    done = shop.run("notify", web.url, f"json://bob:{PASSWORDS[1]}@127.0.0.1:1/x")
    assert done.returncode == 1, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"json://ann:****@127.0.0.1:{web.port}: delivered"
    assert second.startswith("json://bob:****@127.0.0.1:1: not delivered: ")
    assert web.titles == ["runner: a test"]
    wrong = shop.run("notify", web.url, f"no-such://{PASSWORDS[0]}")
    assert wrong.returncode == 2
    assert "URL 2 (no-such) is none that apprise knows" in wrong.stderr
    none = shop.run("notify", environment={"RUNNER_NOTIFY": ""})
    assert none.returncode == 2
    assert "set RUNNER_NOTIFY" in none.stderr
    said = done.stdout + done.stderr + wrong.stdout + wrong.stderr
    assert not [word for word in PASSWORDS if word in said]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "mailtos://ann:geheim@example.org?smtp=mail.example.org",
            "mailtos://ann:****@example.org",
        ),
        ("json://lab.example.org/geheim?+X-Token=geheim", "json://lab.example.org"),
        ("ntfys://geheim", "ntfys://***"),
        ("tgram://123456789:AABBCCDDEEFFGGHHIIJJKKLLgeheim12345/12315544/", "tgram://1...5"),
    ],
)
def test_what_is_shown_of_a_service(url: str, shown: str) -> None:
    """Scheme and address. What it answers may name its secrets, and is shown without them."""
    need("apprise")
    ((service,), wrong) = open_services(f" {url}\n")
    assert (service.shown, wrong) == (shown, [])

    class Chatty:
        def notify(self, **_: object) -> bool:
            logging.getLogger("apprise").warning("refused: %s", url)
            return False

    service._opened = Chatty()
    why = service.send(Message(title="a", body="b"))
    assert why.startswith("refused: ")
    assert "geheim" not in why


def test_urls_are_parted_by_spaces_and_commas() -> None:
    """A comma within one belongs to it."""
    need("apprise")
    mail = "mailto://localhost?from=a@example.org&to=b@example.org,c@example.org"
    services, wrong = open_services(f"json://localhost, {mail} json://localhost:2,, ,json://a.b")
    assert [one.shown.partition(":")[0] for one in services] == ["json", "mailto", "json", "json"]
    assert wrong == []


def test_a_service_that_does_not_answer_holds_nothing_up(
    sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as one that did not take the message; others are told."""
    never, taken = threading.Event(), list[str]()

    class Fake(Service):
        def send(self, message: Message) -> str:
            if self.shown == "silent":
                never.wait()
            taken.append(message.title)
            return ""

    monkeypatch.setattr(messages, "SEND_SECONDS", 0.2)
    quick, silent = (Fake("", None, name) for name in ("quick", "silent"))
    answers = messages.send([quick, silent], Message(title="runner: cats failed", body=""))
    assert answers == {quick: "", silent: "no answer within 0 s"}
    assert taken == ["runner: cats failed"]
    never.set()


def test_no_secret_of_a_record_or_a_store_is_told() -> None:
    """What a program's error says may be anything."""
    queue = Queue(MemoryStore())
    lease = queue.claim(queue.submit("cats", {"seed": 1}), DEAD)
    job = lease.fail("no access with token=geheim at sftp://ann:geheim@nas")
    text = message(job, "failed", "", "az://container?sig=***").body
    assert "geheim" not in text
    assert text.endswith("next: runner logs cats"), "a masked URL opens no store"


def test_requests_of_a_message(sent: Sent) -> None:
    """Those of the table in runner/store/README.md; a look besides is one of the survey's."""
    asked: list[Counter[str]] = []
    for inbox in ([], ["cats"]):
        store = MemoryStore()
        store.put(SINCE, encode({"since": "2999-01-01T00:00:00+00:00"}))  # a look finds nothing
        queue = Queue(store)
        lease = queue.claim(queue.submit("cats", {"seed": 1}), DEAD)
        lease.finish(final={"step": 1}, evaluate=False)
        telling = Notifier(queue, "", lambda _: None)
        for name in inbox:
            telling.saw(queue.job(name))
        telling._inbox.put(None)
        counts: Counter[str] = Counter()
        store.hook = partial(count_in, counts)
        telling.run()
        asked.append(counts)
    assert sent == ["runner: cats succeeded"]
    assert asked[1] - asked[0] == {"read": 3, "create": 1, "put": 1}


def count_in(counts: Counter[str], _number: int, operation: str, _key: str) -> None:
    counts[operation] += 1
