"""A report opens in a browser as it should: light, dark and printed, with nothing to complain."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runner.report.collect import collect
from runner.report.page import render
from tests.report.chromium import Browser, binary, browsing
from tests.report.fakes import World, history, store_evaluation
from tests.store.memory import MemoryStore

SIZES = "[...document.querySelectorAll('svg, img')].map(e => e.getBoundingClientRect().width)"
NATURAL = "[...document.images].map(e => e.complete && e.naturalWidth)"
COLOURS = """['body', 'svg text'].map(name => {
    const style = getComputedStyle(document.querySelector(name));
    return name == 'body' ? style.backgroundColor : style.fill;
})"""
OUTSIDE = """[...document.querySelectorAll('svg')].filter(svg => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].some(text => {
        const box = text.getBoundingClientRect();
        return box.left < frame.left - 2 || box.right > frame.right + 2
            || box.top < frame.top - 2 || box.bottom > frame.bottom + 2;
    });
}).map(svg => svg.getAttribute('aria-label').slice(0, 60))"""
COVERED = """[...document.querySelectorAll('svg:not([aria-label^=Confusion])')].flatMap(svg => {
    const bars = [...svg.querySelectorAll('path')].filter(
        path => path.getAttribute('style').includes('fill: var(--series')
    ).map(path => path.getBoundingClientRect());
    return [...svg.querySelectorAll('text')].filter(text => {
        const box = text.getBoundingClientRect();
        return bars.some(bar => Math.min(bar.right, box.right) - Math.max(bar.left, box.left) > 1
            && Math.min(bar.bottom, box.bottom) - Math.max(bar.top, box.top) > 1);
    }).map(text => text.textContent);
})"""
LETTERS = """[...document.querySelectorAll('svg')].map(svg => Math.min(
    ...[...svg.querySelectorAll('text')].map(text => parseFloat(getComputedStyle(text).fontSize))
) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from runner.datasets import digits

    binary()
    world = World(MemoryStore())
    images = digits.load()
    right = np.eye(10, dtype="float32")[images.y_test]
    right[:40] = right[40:80]
    names = ["W" * 20, "漢字" * 10, *map(str, range(8))]
    for name, deaths in (("cats", (75, 100)), ("m" * 40, ())):
        world.submit(name, data={"name": "digits", "path": None, "arguments": {}})
        lease = world.train(name, history(12), *deaths)
        lease.finish(final=lease.job.checkpoints[0], evaluate=True)
        world.claim(name).finish(
            evaluation=store_evaluation(
                world.store, name, labels=images.y_test, probabilities=right, names=names
            )
        )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(collect(world.queue, [], now=world.clock())).html)
    return path


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        open_without_scripts(browser, page)
        yield browser


def open_without_scripts(browser: Browser, page: Path) -> None:
    """Show the pictures, in whose place the page's script draws others."""
    browser("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page)
    browser("Emulation.setScriptExecutionDisabled", value=False)


def test_every_picture_is_seen_and_the_console_is_empty(browser: Browser) -> None:
    sizes = browser.value(SIZES)
    assert len(sizes) > 20
    assert min(sizes) > 20
    photos = browser.value(NATURAL)
    assert len(photos) > 5
    assert all(photos)
    assert browser.said == []


def test_no_letter_is_cut_off_or_covered_and_nothing_is_wider_than_the_window(
    browser: Browser,
) -> None:
    """On a desk and on a telephone, where all letters can still be read."""
    for width in (1280, 375):
        browser("Emulation.setDeviceMetricsOverride", width=width, height=900,
                deviceScaleFactor=1, mobile=width < 400)  # fmt: skip
        assert browser.value(OUTSIDE) == []
        assert browser.value(COVERED) == []
        assert browser.value(OVERFLOW) <= 0
        assert min(browser.value(LETTERS)) > 6.9  # pixels


def test_pictures_take_the_colours_of_a_dark_page(browser: Browser) -> None:
    """The same drawing: dark ink on white, light ink in the dark."""
    found = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser("Emulation.setEmulatedMedia", features=[feature])
        found.append([_brightness(colour) for colour in browser.value(COLOURS)])
    (paper, ink), (dark_paper, light_ink) = found
    assert paper - ink > 100
    assert light_ink - dark_paper > 100


def test_curves_are_drawn_hovered_and_hidden(browser: Browser, page: Path) -> None:
    """A run that is hidden in one curve is hidden in all, and stays so when loaded again."""
    browser("Emulation.setDeviceMetricsOverride", width=1280, height=2000,
            deviceScaleFactor=1, mobile=False)  # fmt: skip
    browser.value("sessionStorage.clear(), 1")
    browser.open(page)
    plots = "document.querySelectorAll('.comparison .uplot').length"
    soon(browser, f"{plots} > 1")
    shown = "[...document.querySelectorAll('.comparison .u-series.u-off th')].map(e => e.innerText)"
    assert browser.value(shown) == []
    browser.value(
        "document.querySelectorAll('.comparison .u-legend')[0].querySelectorAll('th')[1].click(), 1"
    )
    hidden = browser.value(shown)
    assert hidden == ["cats"] * browser.value(plots)
    browser.open(page)
    soon(browser, f"{plots} > 1")
    assert browser.value(shown) == hidden
    box = browser.value("""(() => {
        const box = document.querySelector('.comparison .u-over').getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2];
    })()""")
    browser("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    value = "document.querySelector('.comparison .u-value').innerText"
    soon(browser, f"Number({value}) > 1")
    browser.value("sessionStorage.clear(), 1")
    assert browser.said == []


def test_without_scripts_and_on_paper_there_are_pictures(browser: Browser, page: Path) -> None:
    kinds = (
        "['svg', '.uplot'].map(one => [...document.querySelectorAll(`.drawn > ${one}`)]"
        ".filter(e => e.getClientRects().length).length)"
    )
    browser.open(page)
    soon(browser, "document.querySelectorAll('.drawn').length > 1")
    svgs, canvases = browser.value(kinds)
    assert (svgs, canvases > 1) == (0, True)
    browser("Emulation.setEmulatedMedia", media="print")
    svgs, on_paper = browser.value(kinds)
    assert (svgs >= canvases, on_paper) == (True, 0)
    browser("Emulation.setEmulatedMedia", media="")
    open_without_scripts(browser, page)
    assert browser.value("document.querySelectorAll('figure svg').length") > 5
    assert browser.value("document.querySelectorAll('.uplot').length") == 0


def soon(browser: Browser, expression: str) -> None:
    end = time.monotonic() + 20
    while not browser.value(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def test_it_can_be_printed(browser: Browser) -> None:
    data = base64.b64decode(browser("Page.printToPDF", printBackground=False)["data"])
    assert data.startswith(b"%PDF")
    assert len(data) > 50_000


def _brightness(colour: str) -> float:
    numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(numbers) / 3
