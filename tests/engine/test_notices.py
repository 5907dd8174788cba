"""Each kind of notice becomes a stop with a deadline, or a checkpoint; nothing else does."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner.engine.notices import azure, base, watcher
from runner.engine.notices.aws import Spot
from runner.engine.notices.azure import ScheduledEvents
from runner.engine.notices.base import Notice, Source
from runner.engine.notices.gce import Maintenance, Preempted
from runner.engine.notices.kubernetes import grace_seconds
from runner.engine.notices.watcher import sources, watching
from runner.engine.preemption import RELEASE_SECONDS, StopRequest
from runner.errors import SpecError
from tests.metadata import NOTICES, Metadata, event, serving


@pytest.fixture
def machine() -> Iterator[Metadata]:
    with serving() as metadata:
        yield metadata


def wait_for(stop: StopRequest, seconds: float = 10) -> str:
    end = time.monotonic() + seconds
    while stop.reason is None and time.monotonic() < end:
        time.sleep(0.01)
    assert stop.reason is not None, "the notice was not heard"
    return stop.reason


def some_looks(machine: Metadata, number: int) -> None:
    """Wait until the service was asked a few times more."""
    enough = len(machine.requests) + number
    end = time.monotonic() + 10
    while len(machine.requests) < enough and time.monotonic() < end:
        time.sleep(0.01)
    assert len(machine.requests) >= enough, "nobody asks"


@pytest.mark.parametrize("kind", NOTICES)
@pytest.mark.parametrize("early", [False, True], ids=["while it works", "before it starts"])
def test_a_notice_asks_for_a_stop_and_says_how_much_time_is_left(
    machine: Metadata, kind: str, early: bool
) -> None:
    said: list[str] = []
    stop = StopRequest()
    if early:
        machine.announce(kind)
    among = sources(machine.environment(kind))
    with watching(stop, said.append, among=among, poll_seconds=0.05):
        if not early:
            some_looks(machine, 4 - len(machine.requests))
            assert stop.reason is None
            machine.announce(kind)
        reason = wait_for(stop)
    name = {"gce": "GCE", "ec2": "EC2", "azure": "Azure"}[kind.split("-")[0]]
    assert reason.startswith(f"{name}: ")
    assert reason.endswith(" s left")
    assert said == [f"{reason}: saving and releasing the job"]
    left = stop.seconds_left
    assert left is not None
    assert NOTICES[kind] - RELEASE_SECONDS - 10 < left <= NOTICES[kind] - RELEASE_SECONDS + 1


def test_the_gce_server_holds_the_request_until_there_is_news(machine: Metadata) -> None:
    """The notice is here when it is there, however long the interval between two looks."""
    stop = StopRequest()
    among = [Preempted(machine.environment("gce"))]
    with watching(stop, among=among, poll_seconds=0.1):
        some_looks(machine, 3 - len(machine.requests))
        time.sleep(0.3)
        assert sum("wait_for_change" in request for request in machine.requests) == 1, "not held"
        machine.announce("gce-preempted")
        assert "preempted" in wait_for(stop)


def test_what_is_no_end_stops_nothing(machine: Metadata) -> None:
    """A move to another host, a pause, and what is announced to a neighbour."""
    soon = datetime.now(UTC) + timedelta(seconds=60)
    machine.gce["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    machine.events += [event("Freeze", soon), event("Preempt", soon, machine="trainer_4")]
    gce, azure = machine.environment("gce"), machine.environment("azure")
    asked: list[Source] = [Maintenance(gce), ScheduledEvents(azure)]
    stop, said = StopRequest(), list[str]()
    with watching(stop, said.append, among=asked, poll_seconds=0.02):
        some_looks(machine, 6)
    assert (stop.reason, said, stop.take_save_request()) == (None, [], False)


def test_an_event_that_has_begun_leaves_no_time(machine: Metadata) -> None:
    machine.events.append(event("Redeploy", None))
    stop = StopRequest()
    with watching(stop, among=[ScheduledEvents(machine.environment("azure"))]):
        assert "0 s left" in wait_for(stop)
    assert (stop.seconds_left or 0) <= 0


def test_a_rebalance_recommendation_saves_once_and_goes_on(machine: Metadata) -> None:
    """It often comes to nothing; the interruption itself still ends the work."""
    machine.ec2["events/recommendations/rebalance"] = json.dumps(
        {"noticeTime": "2026-10-27T08:22:00Z"}
    )
    stop, said = StopRequest(), list[str]()
    with watching(stop, said.append, among=[Spot(machine.environment("ec2"))], poll_seconds=0.02):
        some_looks(machine, 12)
        assert stop.reason is None
        assert stop.take_save_request()
        assert not stop.take_save_request()
        assert len(said) == 1, "said again and again"
        machine.announce("ec2-spot")
        assert "terminated" in wait_for(stop)


def test_a_far_end_saves_at_once_and_stops_shortly_before(machine: Metadata) -> None:
    environment = machine.environment("azure")
    machine.events.append(event("Redeploy", datetime.now(UTC) + timedelta(seconds=4)))
    stop, said = StopRequest(), list[str]()
    among = [ScheduledEvents(environment)]
    with watching(stop, said.append, among=among, poll_seconds=0.02, lead_seconds=2):
        some_looks(machine, 4)
        assert stop.reason is None
        assert stop.take_save_request()
        wait_for(stop)
        assert len(said) == 2


def test_a_notice_of_two_minutes_is_saved_for_and_does_not_end_the_work_yet(
    machine: Metadata,
) -> None:
    machine.announce("ec2-spot", 120)
    stop = StopRequest()
    with watching(stop, among=[Spot(machine.environment("ec2"))], poll_seconds=0.02):
        some_looks(machine, 6)
        assert stop.take_save_request()
        assert stop.reason is None


def test_a_far_end_that_is_taken_back_is_forgotten(machine: Metadata) -> None:
    machine.events.append(event("Redeploy", datetime.now(UTC) + timedelta(days=3)))
    stop = StopRequest()
    among = [ScheduledEvents(machine.environment("azure"))]
    with watching(stop, among=among, poll_seconds=0.02):
        some_looks(machine, 4)
        machine.events.clear()
        some_looks(machine, 4)
    assert stop.reason is None


def test_an_expired_token_is_fetched_anew(machine: Metadata) -> None:
    source = Spot(machine.environment("ec2"))
    assert source.is_here()
    machine.token = "token-2"
    machine.announce("ec2-spot")
    notice = source.look()
    assert notice is not None
    assert "terminated" in notice.text


@pytest.mark.parametrize(
    ("words", "here"),
    [
        ({"product_name": "Google Compute Engine"}, {"gce"}),
        ({"sys_vendor": "Amazon EC2"}, {"ec2"}),
        ({"sys_vendor": "Xen", "bios_version": "4.11.amazon"}, {"ec2"}),
        ({"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": azure.ASSET_TAG}, {"azure"}),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Surface"}, set()),
        ({"sys_vendor": "LENOVO", "product_name": "20XW"}, set()),
        ({}, {"gce", "ec2", "azure"}),  # a container that is told nothing
    ],
)
def test_only_where_it_may_help_is_anybody_asked(
    words: dict[str, str], here: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in words.items():
        (tmp_path / name).write_text(f"{text}\n")
    asked: set[str] = set()

    def ask(name: str) -> object:
        def answer(service: base.Service, path: str, **_: object) -> object:
            assert service.host == base.ADDRESS
            asked.add(name)
            raise TimeoutError

        return answer

    for service, name in ((Preempted, "gce"), (Spot, "ec2"), (ScheduledEvents, "azure")):
        monkeypatch.setattr(service, "ask", ask(name))
    kinds: list[Source] = [Preempted({}, tmp_path), Spot({}, tmp_path)]
    for source in [*kinds, ScheduledEvents({}, tmp_path)]:
        assert not source.is_here()
    assert asked == here


def test_a_proxy_is_never_asked(machine: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Preempted(machine.environment("gce")).is_here()


@pytest.mark.parametrize("answer", ["", "{", "[]", '{"Events": [7]}', "null", "\x00" * 99])
def test_nonsense_is_no_notice(
    machine: Metadata, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.ec2["spot/instance-action"] = answer
    machine.gce["preempted"] = answer.replace("\x00", "?") or "?"
    spot = Spot(machine.environment("ec2")).look()
    assert spot is not None, "that the key is there is the notice"
    assert spot.seconds_left is None
    assert Preempted(machine.environment("gce")).look() is None
    known = base.Answer(status=200, text=answer, headers={}, at=datetime.now(UTC))
    monkeypatch.setattr(ScheduledEvents, "ask", lambda *_, **__: known)
    assert ScheduledEvents({}).look() is None


class _Silent:
    """A service that takes a long time to find out, or breaks."""

    name = "silent"

    def __init__(self, *, here: bool) -> None:
        self.here = here
        self.looked = threading.Event()

    def is_here(self) -> bool:
        if not self.here:
            time.sleep(30)
        return self.here

    def look(self) -> Notice | None:
        self.looked.set()
        raise ConnectionResetError


def test_nothing_waits_for_a_service_and_nothing_is_said_of_a_broken_one() -> None:
    said: list[str] = []
    broken = _Silent(here=True)
    began = time.monotonic()
    stop = StopRequest()
    with watching(stop, said.append, among=[_Silent(here=False), broken], poll_seconds=0.01):
        assert broken.looked.wait(10)
    assert time.monotonic() - began < 15
    assert (said, stop.reason) == ([], None)


def test_a_service_that_begins_late_is_found(
    machine: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "AGAIN_SECONDS", (0.05, 0.05))
    machine.ec2.pop("instance-id")
    stop = StopRequest()
    with watching(stop, among=[Spot(machine.environment("ec2"))], poll_seconds=0.02):
        some_looks(machine, 1)
        machine.ec2["instance-id"] = "i-0123456789abcdef0"
        machine.announce("ec2-spot")
        wait_for(stop)


@pytest.mark.parametrize("off", ["off", "no", "0", "False"])
def test_notices_can_be_turned_off(off: str) -> None:
    assert sources({"RUNNER_NOTICES": off}) == []
    with pytest.raises(SpecError, match="RUNNER_NOTICES received 'maybe'; expected on or off"):
        sources({"RUNNER_NOTICES": "maybe"})
    assert len(sources({})) == 4


def test_the_grace_of_a_pod() -> None:
    assert grace_seconds({}) is None
    assert grace_seconds({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == 30
    assert grace_seconds({"RUNNER_GRACE_SECONDS": "300"}) == 300
    with pytest.raises(SpecError, match="RUNNER_GRACE_SECONDS received 'soon'"):
        grace_seconds({"RUNNER_GRACE_SECONDS": "soon"})
