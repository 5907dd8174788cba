"""A page in the store: it follows the training, costs nothing where it is off, ends no training."""

import json
import re
import subprocess
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from runner.errors import StoreError
from runner.queue.job import Job
from runner.report import publishing
from runner.report.collect import Collector, collect
from runner.report.page import render
from runner.spec import parse
from tests.engine.counting import Counting, Shop
from tests.report.fakes import World, history
from tests.report.test_report import HOSTILE, Checked
from tests.store.memory import MemoryStore

KEY = "jobs/cats/report/index.html"


def curves(html: str) -> list[dict[str, Any]]:
    """Return what the page's script draws."""
    found = re.search(r'<script type="application/json" id="curves">(.*?)</script>', html, re.S)
    assert found
    parsed: list[dict[str, Any]] = json.loads(found[1])
    return parsed


def live(world: World, *, drawn: bool = False) -> str:
    html = render(collect(world.queue, [], now=world.clock()), live=True, drawn=drawn).html
    Checked().feed(html)
    return html


@pytest.fixture
def world() -> World:
    return World(MemoryStore())


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(publishing, "PAUSE_SECONDS", 0.01)
    return Shop(monkeypatch)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def requests(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Note what is asked of a store from here on."""
    seen: list[tuple[str, str]] = []

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(key: Any, *arguments: Any, **named: Any) -> Any:
            seen.append((name, str(key)))
            return method(key, *arguments, **named)

        return call

    for name in ("read", "read_many", "read_range", "put", "create", "list", "folders", "size",
                 "age", "delete"):  # fmt: skip
        monkeypatch.setattr(shop.store, name, noting(name, getattr(shop.store, name)))
    return seen


# ---------------------------------------------------------------------- the page


def test_each_epoch_is_in_the_data_once_after_two_deaths(world: World) -> None:
    known = history(12)
    world.submit("cats")
    world.train("cats", known, 75, 130)
    first = next(one for one in curves(live(world)) if one["title"] == "Loss")
    assert first["epochs"] == list(range(1, 13))
    lines = {one["label"]: one["values"] for one in first["lines"]}
    assert lines == {
        "training": pytest.approx(known["loss"], rel=1e-5),
        "validation": pytest.approx(known["val_loss"], rel=1e-5),
    }
    assert first["marks"] == [3.5, 6.5]


def test_it_loads_itself_again_while_a_job_has_not_ended(world: World) -> None:
    refresh = '<meta http-equiv="refresh" content="60">'
    world.submit("cats")
    lease = world.train("cats", history(2))
    assert refresh in live(world)
    assert refresh not in render(collect(world.queue, [], now=world.clock()), drawn=False).html
    world.finish(lease)
    assert refresh not in live(world)


@pytest.mark.parametrize("drawn", [True, False])
def test_no_text_of_a_record_becomes_a_script(world: World, drawn: bool) -> None:
    """The page's policy names the hash of its one script, and the data are read as JSON."""
    known = {f"{HOSTILE}</script>": [1.0, 2.0], "a": [0.5, None], "val_a": [1e300, 2]}
    world.submit("cats", description=HOSTILE)
    world.submit("dogs")
    for name in ("cats", "dogs"):
        world.train(name, known, 20, host=f"</script>{HOSTILE}"[:100])
    html = live(world, drawn=drawn)
    (code,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = b64encode(sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "alert" not in code
    data = curves(html)
    assert any("</script>" in one["title"] for one in data)
    assert html.count("</script>") == 2


def test_a_page_without_pictures_needs_no_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tests.report.test_live import *\n"
        "world = World(MemoryStore())\n"
        "world.submit('cats')\n"
        "world.train('cats', history(3), 20)\n"
        "live(world)\n"
        "print(sorted({'matplotlib', 'tensorflow', 'keras'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_records_are_read_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page an hour into a training reads no more than its first one did."""
    world.submit("cats")
    lease = world.train("cats", history(8), 75)
    collector, read = Collector(world.queue), list[str]()
    many = world.store.read_many

    def noting(keys: list[str], **named: Any) -> Any:
        read.extend(keys)
        return many(keys, **named)

    monkeypatch.setattr(world.store, "read_many", noting)
    first = collector.own(lease.job, now=world.clock())
    assert {key for key in read if "/log/" in key} == {*world.store.list("jobs/cats/log/")}
    for step in (170, 180):
        world.save(lease, history(9), step)
    read.clear()
    again = collector.own(lease.job, now=world.clock())
    assert len([key for key in read if "/log/" in key]) == 2
    fresh = collect(world.queue, [], now=world.clock())
    assert [one.attempts for one in again.runs] == [one.attempts for one in fresh.runs]
    assert first.runs[0].attempts != again.runs[0].attempts


# ---------------------------------------------------------------------- the worker


def test_the_page_changes_during_the_training_and_is_last_written_at_its_end(shop: Shop) -> None:
    seen: list[str] = []

    def look(job: Job, step: int) -> None:
        def news() -> bool:
            html = (shop.store.read(KEY) or b"").decode()
            return f"step {step - 1} saved" in html or f"step {step - 1}." in html

        wait_for(news)
        seen.append((shop.store.read(KEY) or b"").decode())

    shop.submit("cats", report={"publish": True})
    shop.work(Counting(steps=4, on_step=look))
    assert len(set(seen)) == 4
    assert all('http-equiv="refresh"' in html for html in seen)
    last = (shop.store.read(KEY) or b"").decode()
    assert "succeeded" in last
    assert 'http-equiv="refresh"' not in last


def test_off_it_asks_nothing_and_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "runner.report.publishing")
    counts = []
    for report in ({}, {"report": {"publish": False}}):
        shop = Shop(monkeypatch)
        shop.submit("cats", **report)
        seen = requests(shop, monkeypatch)
        shop.work()
        assert not [key for _, key in seen if "/report/" in key]
        counts.append(Counter(name for name, _ in seen))
    assert counts[0] == counts[1]
    assert "runner.report.publishing" not in sys.modules


def test_a_page_that_cannot_be_written_is_said_once_and_ends_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = shop.store.put

    def failing(key: str, data: Any) -> None:
        if "/report/" in key:
            raise StoreError("no page today")
        put(key, data)

    monkeypatch.setattr(shop.store, "put", failing)
    shop.submit("cats", report={"publish": True}, evaluation=None)
    shop.work(Counting(steps=50))
    assert shop.queue.job("cats").state == "succeeded"
    stages = len(re.findall("token", shop.log("cats")))
    assert shop.log("cats").count("the page could not be written") == stages


def test_a_worker_that_lost_its_job_writes_no_page(world: World) -> None:
    """The page is that of whoever has the lease."""
    world.submit("cats")
    page = publishing.LivePage(world.train("cats", history(2)), world.store)
    page._write()
    assert b"running" in (world.store.read(KEY) or b"")
    world.claim("cats", "another")
    world.store.put(KEY, b"the other's")
    page._write()
    assert world.store.read(KEY) == b"the other's"


def test_old_specs_are_the_same(world: World) -> None:
    """A spec that publishes nothing is stored as it always was."""
    assert "report" not in parse({"name": "a"}, source="a").effective()
    given = parse({"name": "a", "report": {"publish": False}}, source="a")
    assert given.effective() == parse({"name": "a"}, source="a").effective()
    asked = parse({"name": "a", "report": {"publish": True}}, source="a")
    assert asked.effective()["report"] == {"publish": True}
