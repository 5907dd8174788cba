"""A page says what the records say, of every job, whatever is missing, damaged or hostile."""

import html
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from runner.errors import NotFoundError
from runner.report import examples, words
from runner.report.collect import Measured, Report, collect
from runner.report.page import Page, render
from tests.report.fakes import World, history, predictions
from tests.store.memory import MemoryStore

VOID = {"meta", "img", "br"}
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> \x1b[31m\u202ered & $x_{$'


@pytest.fixture
def world() -> World:
    return World(MemoryStore())


def report(world: World, *names: str) -> tuple[Report, Page]:
    found = collect(world.queue, names, now=world.clock())
    page = render(found)
    Checked().feed(page.html)
    return found, page


class Checked(HTMLParser):
    """Every element is closed, no script runs but the page's, nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("link", "iframe", "object")
        if tag == "script":
            self.scripts.append(dict(attrs))
            data, code = {"type": "application/json", "id": "curves"}, dict[str, str]()
            assert self.scripts == [data, code][: len(self.scripts)]
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith(("#", "data:image/png;base64,"))
            if name == "id":
                assert value not in self.ids
                self.ids.add(value or "")
        given = dict(attrs)
        if tag == "img":
            assert given["alt"]
        if tag == "svg":
            assert given["role"] == "img"
            assert given["aria-label"]
        if tag == "th":
            assert given["scope"] in ("row", "col")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(page: Page) -> str:
    """Return what a reader reads, without the drawings."""
    kinds = "svg", "style", "script"
    body = re.sub("|".join(f"<{k}.*?</{k}>" for k in kinds), "", page.html, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def evaluated(
    world: World, name: str, classes: int = 10, images: int = 500, skill: float = 0.8, **more: Any
) -> Any:
    world.submit(name, data={"name": "nowhere"})
    seen = predictions(classes, images, skill)
    world.finish(world.train(name, history(12), 75), **seen, **more)
    return seen


def test_numbers_are_those_of_the_evaluation(world: World) -> None:
    """The page, the stored JSON and scikit-learn agree."""
    seen = evaluated(world, "cats", names=[f"name_{number}" for number in range(10)])
    found, page = report(world)
    measured = found.runs[0].measured
    assert measured is not None
    job = world.queue.job("cats")
    stored = json.loads(world.store.read(job.evaluation["json"]) or b"")  # type: ignore[index]
    predicted = seen["probabilities"].argmax(axis=1)
    matrix = sk.confusion_matrix(seen["labels"], predicted)
    np.testing.assert_array_equal(measured.confusion, matrix)
    assert measured.per_class is not None
    np.testing.assert_allclose(
        measured.per_class, sk.recall_score(seen["labels"], predicted, average=None)
    )
    text = text_of(page)
    assert stored["top_1"] == sk.accuracy_score(seen["labels"], predicted)
    for name in ("top_1", "top_5", "certainty", "consistency", "expected_calibration_error"):
        assert f"{stored[name]:.1%}" in text
    assert f"{stored['loss']:.4f}" in text
    wrong = matrix - np.diag(np.diag(matrix))
    true, taken_for = np.unravel_index(wrong.argmax(), wrong.shape)
    said = f"name_{true} is taken for name_{taken_for} in {wrong.max()} of {matrix[true].sum()}"
    assert said in text
    assert "No example images: its data cannot be read here: dataset 'nowhere'" in text


def test_lines_go_on_over_all_attempts(world: World) -> None:
    """One path of twelve points for each curve, one triangle for the one death."""
    world.submit("cats")
    world.finish(world.train("cats", history(12), 75))
    _, page = report(world)
    loss = re.findall(r"<svg.*?</svg>", page.html, flags=re.S)[0]
    assert "interrupted at epoch 3.5" in loss
    paths = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: var\(--series-[01]\)', loss)
    assert [(path.count("M"), path.count("L")) for path in paths] == [(1, 11), (1, 11)]
    assert "goes on from step 70 (epoch 3.50)" in text_of(page)


def test_after_a_death_before_anything_was_saved_the_next_begins_again(world: World) -> None:
    world.submit("cats")
    world.claim("cats")
    world.train("cats", history(2))
    assert "attempt 1 was lost; the next begins again." in text_of(report(world)[1])


def test_every_version_of_the_users_code_is_named(world: World) -> None:
    """An attempt that went on with other code shows."""
    world.submit("cats")
    world.finish(world.train("cats", history(12), 75))
    _, page = report(world)
    assert "Git commit c0ffee-of-gpu-1, c0ffee-of-gpu-2" in text_of(page)


def test_text_from_the_bucket_stays_text(world: World) -> None:
    """In the description, the class names, the host, the reasons and the spec."""
    world.submit("cats", description=HOSTILE, data={"name": HOSTILE, "path": None})
    lease = world.train("cats", {HOSTILE: [1.0, 2.0], **history(2)})
    names = [f"{HOSTILE}{number}" for number in range(10)]
    world.finish(lease, **predictions(10, 100, 0.2), names=names)
    world.submit("dogs")
    world.claim("dogs", HOSTILE).release(HOSTILE)
    _, page = report(world)
    for part in ("<script>alert", "<img src=x", "\x1b", "\u202e"):
        assert part not in page.html
    assert "&lt;script&gt;" in page.html


def test_an_unreadable_job_is_named_and_hides_no_other(world: World) -> None:
    evaluated(world, "cats")
    world.submit("dogs")
    world.store.put("jobs/dogs/log/000000000000.json", b"nonsense")
    world.store.put("jobs/dogs/head.json", b"nonsense")
    found, page = report(world)
    assert [run.job.id for run in found.runs] == ["cats"]
    assert found.problems[0].startswith("dogs: cannot be read: ")
    assert "dogs: cannot be read" in text_of(page)
    assert report(world, "dogs")[0].problems == found.problems


def test_a_damaged_record_checkpoint_or_evaluation_costs_only_itself(world: World) -> None:
    evaluated(world, "cats")
    job = world.queue.job("cats")
    assert job.final is not None
    assert job.evaluation is not None
    world.store.put("jobs/cats/log/000000000003.json", b"{}")
    world.store.put(job.final["manifest"], b"{}")
    world.store.put(job.evaluation["json"], b"[")
    world.store.put(job.evaluation["npz"], b"PK")
    found, page = report(world)
    assert len(found.problems) >= 4
    (run,) = found.runs
    assert run.measured is not None
    assert run.measured.number("top_1") == job.evaluation["top_1"]
    assert run.epochs == 11  # of the checkpoint before
    assert f"{job.evaluation['top_1']:.1%}" in text_of(page)


def test_without_arrays_the_stored_mistakes_are_named(world: World) -> None:
    """Which classes are taken for each other stands in the evaluation's numbers too."""
    evaluated(world, "cats", names=[f"name_{number}" for number in range(10)])
    world.store.put("jobs/cats/evaluation/t9.npz", b"PK")
    found, page = report(world)
    assert len(found.problems) == 1
    assert re.search(r"name_\d and name_\d are taken for each other in \d+ images", text_of(page))


def test_arrays_that_make_no_sense_are_a_problem(world: World) -> None:
    """Predictions of another number of images than there are labels."""
    world.submit("cats")
    seen = predictions(10, 100, 0.5)
    world.finish(world.train("cats", history(2)), **seen)
    job = world.queue.job("cats")
    assert job.evaluation is not None
    content = io.BytesIO()
    wrong = {"labels": (3,), "predicted": (1, 4), "confusion": (10, 10)}
    arrays: dict[str, Any] = {name: np.zeros(shape, int) for name, shape in wrong.items()}
    np.savez(content, **arrays)
    world.store.put(job.evaluation["npz"], content.getvalue())
    found, _ = report(world)
    assert "labels (3,) and predictions (1, 4)" in found.problems[0]


def test_numbers_without_sense_break_nothing(world: World) -> None:
    """A bucket may hold anything: such values are left out, the rest is shown."""

    def change(document: dict[str, Any]) -> None:
        document |= {"certainty": "high", "loss": None, "augmented": [1], "confused": {"a": 1}}
        document["reliability"] = [
            {"low": 0.0, "high": 0.1, "count": -3, "confidence": 0.5, "accuracy": 0.5},
            {"low": 0.0, "high": 1e300, "count": 1, "confidence": 0.5, "accuracy": 0.5},
            {"low": 0.0, "high": 1.0, "count": 7, "confidence": 0.25, "accuracy": 0.5},
            "nonsense",
        ]
        document["class_names"] = [None, {"a": HOSTILE}]

    world.submit("cats", training=[1], data="x", description=["y"])
    curves: dict[str, Any] = {"loss": [1e308, -1e308, 3.0], "val_loss": 5, "top_1": ["x", 0.5]}
    curves = {name: values for name, values in curves.items() if isinstance(values, list)}
    world.finish(world.train("cats", curves), **predictions(10, 100, 0.5), change=change)
    found, page = report(world)
    assert found.problems == []
    assert found.runs[0].history["top_1"][:2] == (None, 0.5)
    assert "On average it is 25.0% sure and 50.0% right" in text_of(page)


def test_many_runs_and_interruptions_stay_within_bounds(world: World) -> None:
    """The table has every run, the pictures the newest of them."""
    for number in range(45):
        world.submit(f"cats-{number:02}")
    for _ in range(230):
        world.claim("cats-00").release("again")
    found, page = report(world)
    assert len(found.runs) == 45
    assert len(found.runs[0].interruptions) == 230
    assert "The pictures show the newest 40 runs." in text_of(page)
    assert page.html.count('<th scope="row">231</th>') == 0
    assert page.html.count('<th scope="row">230</th>') == 1


def _queued(world: World) -> None:
    world.submit("cats")


def _without_checkpoint(world: World) -> None:
    world.submit("cats")
    world.claim("cats")


def _before_the_first_epoch(world: World) -> None:
    world.submit("cats")
    world.save(world.claim("cats"), history(3), 10)


def _one_epoch(world: World) -> None:
    world.submit("cats")
    world.train("cats", history(1))


def _diverged(world: World) -> None:
    world.submit("cats")
    curves: dict[str, Any] = history(5)
    curves["loss"][2:] = [None] * 3
    curves["val_loss"] = [None] * 5
    world.finish(world.train("cats", curves))


def _failed(world: World) -> None:
    world.submit("cats")
    lease = world.claim("cats")
    lease.fail("TrainingError: the loss is no number", retries=0)


def _held(world: World) -> None:
    world.submit("cats")
    world.queue.hold("cats")


def _without_names(world: World) -> None:
    evaluated(world, "cats")


def _a_hundred_classes(world: World) -> None:
    evaluated(world, "cats", 100, 1000)


def _two_classes_plain(world: World) -> None:
    evaluated(world, "cats", 2, 50, passes=0)


def _perfect(world: World) -> None:
    world.submit("cats")
    labels = np.arange(30) % 3
    p = np.eye(3, dtype="float32")[labels]
    world.finish(world.train("cats", history(2)), labels=labels, probabilities=p)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_queued, "Has not been started yet."),
        (_without_checkpoint, "No epoch has been finished and saved yet"),
        (_before_the_first_epoch, "In training: epoch 0 of at most 40, step 10."),
        (_one_epoch, "best validation top-1 accuracy so far is"),
        (_diverged, "It was not evaluated"),
        (_failed, "the loss is no number"),
        (_held, "Held at epoch 0 of at most 40, step 0: held by its user."),
        (_without_names, "class 1"),
        (_a_hundred_classes, "class 99"),
        (_two_classes_plain, "is taken for"),
        (_perfect, "Every image of every class was recognised."),
    ],
)
def test_a_report_can_be_made_at_any_moment(
    world: World, make: Callable[[World], None], said: str
) -> None:
    make(world)
    found, page = report(world)
    assert found.problems == []
    assert said in text_of(page)


def test_several_runs_are_compared(world: World) -> None:
    """The table names each, the best of a column is bold, those not evaluated have a dash."""
    evaluated(world, "cats")
    evaluated(world, "dogs", skill=0.5)
    world.submit("later", data={"name": "nowhere"})
    found, page = report(world)
    assert len(found.runs) == 3
    text = text_of(page)
    assert "All runs" in text
    assert "recognises most" in text
    assert page.html.count('<td class="n"><strong>') >= 5
    assert "all-top_1.png" in page.pictures
    assert "all-accuracy-and-certainty.png" in page.pictures
    assert all(png.startswith(b"\x89PNG") for png in page.pictures.values())


def test_a_tie_has_no_winner(world: World) -> None:
    """Nor is one that is ahead by less than is shown said to be ahead of the same number."""
    evaluated(world, "cats")
    evaluated(world, "dogs")
    assert "cats and dogs recognise most: each" in text_of(report(world)[1])
    two = [_scored("cats", 0.95611), _scored("dogs", 0.95612)]
    assert words.best(two) == (
        "dogs recognises most: 95.612% of the test images, before cats with 95.611%."
    )


def _scored(name: str, top_1: float) -> Any:
    measured = Measured(metrics={"top_1": top_1})
    return SimpleNamespace(job=SimpleNamespace(id=name), measured=measured, noun="image")


def test_an_undisturbed_training_took_one_attempt_and_a_death_shows(world: World) -> None:
    """In the tiles and in the table of runs; the evaluation is no further attempt to train."""
    evaluated(world, "killed")  # dies once
    world.submit("quiet")
    world.finish(world.train("quiet", history(2)), **predictions(10, 50, 0.8))
    _, page = report(world)
    for name in ("killed", "quiet"):
        facts = page.html.split(f'id="run-{name}"')[1].split("</dl>")[0]
        tiles = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", facts))
        found = [tiles[head] for head in ("Training attempts", "Preemptions", "Deaths")]
        assert found == (["2", "0", "1"] if name == "killed" else ["1", "0", "0"])
    rows = re.findall(r"<tr>.*?</tr>", page.html, flags=re.S)
    heads = re.findall(r"<th[^>]*>(.*?)</th>", rows[0])
    rows = [row for row in rows if 'href="#run-' in row]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.S) for row in rows]
    places = [heads.index(head) for head in ("Training attempts", "Preempted", "Died")]
    assert [[row[place] for place in places] for row in cells] == [["2", "0", "1"], ["1", "0", "0"]]


def test_results_on_different_images_are_not_compared(world: World) -> None:
    """No best run and no best value where each was measured on data of its own."""
    evaluated(world, "cats")
    evaluated(world, "dogs", images=300)
    _, page = report(world)
    assert "measured on different test data" in text_of(page)
    assert "recognises most" not in text_of(page)
    assert "<strong>" not in page.html


def test_without_augmentation_nothing_is_said_of_certainty(world: World) -> None:
    """One look at each image tells neither certainty nor consistency, whatever was stored."""
    evaluated(world, "cats", passes=0)
    _, page = report(world)
    assert not re.search("certainty|consistency", page.html, flags=re.I)
    evaluated(world, "dogs")
    _, page = report(world)
    assert re.search(r"cats: top-1 accuracy [\d.]+%, certainty —; dogs: ", page.html)
    assert page.html.count("<dt>Certainty</dt>") == page.html.count("<dt>Consistency</dt>") == 1


def test_settings_have_names_that_people_read(world: World) -> None:
    """Also those that are added some day."""
    world.submit("cats")
    world.numerics["of_a_later_version"] = 3
    world.train("cats", history(1))
    _, page = report(world)
    names = re.findall("<dt>(.*?)</dt>", page.html)
    assert {"Keras backend", "Fingerprint of the data", "Of a later version"} <= set(names)
    assert all(name[0].isupper() or name == "oneDNN" for name in names)
    heads = re.findall('<th scope="col"[^>]*>(.*?)</th>', page.html)
    assert {"Training loss", "Validation top-1 accuracy"} <= set(heads)
    assert not [name for name in names + heads if "_" in name]


def program(world: World, name: str, curves: dict[str, Any], found: dict[str, Any]) -> None:
    """Submit, train and evaluate a program of one's own; its evaluation's arrays are its own."""
    world.submit(name, program={"name": "houses"}, checkpoint={"best": {"monitor": "val_mae"}})
    lease = world.train(name, curves)
    lease.finish(final=lease.job.checkpoints[0])
    content = io.BytesIO()
    np.savez(content, confusion=np.zeros((3, 2)), errors=np.arange(5))
    places = {kind: f"jobs/{name}/evaluation/t2.{kind}" for kind in ("json", "npz")}
    world.store.put(places["json"], json.dumps(found).encode())
    world.store.put(places["npz"], content.getvalue())
    world.claim(name).finish(evaluation={**found, **places})


CURVES = {f"{part}{name}": [9.0, 3.0, 4.0] for part in ("", "val_") for name in ("loss", "mae")}


def test_a_programs_own_numbers_are_shown_and_no_pictures_of_classes(world: World) -> None:
    """Of a regression nothing is said of classes or images; a lower error is the better one."""
    program(world, "houses", CURVES, {"loss": 9.5, "mae": 2.25, "outliers": 3, "parameters": 2561})
    found, page = report(world)
    assert found.problems == []
    text = text_of(page)
    assert "On its test data it has loss 9.5000, mae 2.2500, outliers 3." in text
    assert "<dt>mae</dt><dd>2.2500</dd>" in page.html
    assert "mae by epoch: training from 9.0000 to 4.0000 in 3 epochs, best 3.0000 at epoch 2" in (
        page.html
    )
    body = re.sub(r"<style>.*?</style>|<pre>.*?</pre>", "", page.html, flags=re.S)
    assert not re.search("confusion|recognise|top-1|certainty|calibration|image[^/]", body, re.I)
    assert {"houses-loss.png", "houses-mae.png"} <= page.pictures.keys()


def test_classes_of_a_program_get_their_pictures(world: World) -> None:
    seen = predictions(3, 90, 0.4)
    world.submit("words", program={"name": "words"})

    def change(document: dict[str, Any]) -> None:
        document |= {"examples": document.pop("images"), "f1": 0.75}

    lease = world.train("words", history(2))
    world.finish(lease, **seen, names=["a", "b", "c"], passes=0, change=change)
    found, page = report(world)
    assert found.problems == []
    text = text_of(page)
    assert "Of the 90 test examples it recognises" in text
    assert re.search(r"is taken for \w in \d+ of 30 examples", text)
    assert "<dt>f1</dt><dd>0.7500</dd>" in page.html
    assert not re.search("No example images|test image|mistakes/", page.html)
    assert {"words-confusion.png", "words-classes.png", "words-calibration.png"} <= (
        page.pictures.keys()
    )


def test_every_metric_gets_a_curve_of_its_own(world: World) -> None:
    """Also where names differ in what a file's name cannot have, or are another picture's."""
    names = [
        "loss",
        *(f"output_{n}_loss" for n in range(9)),
        "a/b",
        "a-b",
        "a b",
        "attempts",
        "time",
    ]
    world.submit("cats", program={"name": "many"})
    world.train("cats", {name: [1.0, 0.5] for name in [*names, "learning_rate"]})
    _, page = report(world)
    assert len([name for name in page.pictures if name.startswith("cats-")]) == len(names) + 3
    said = re.findall(r'aria-label="(.*?) by epoch', page.html)
    assert (said[0], said[-1], len(said)) == ("Loss", "learning rate", len(names) + 1)


def test_programs_and_images_are_compared_each_among_themselves(world: World) -> None:
    evaluated(world, "cats")
    evaluated(world, "dogs", skill=0.5)
    program(world, "narrow", CURVES, {"loss": 9.5, "mae": 2.25, "bleu": 0.5})
    program(world, "wide", CURVES, {"loss": 9.0, "mae": 2.5, "bleu": 0.25})
    world.submit("alone", program={"name": "other"})
    _, page = report(world)
    heads = re.findall(r"<h2>(.*?)</h2>", page.html)
    assert heads == [
        "Runs on the data nowhere", "Runs of the program houses", "Runs of the program other",
            "Where the time went",
    ]  # fmt: skip
    sections = re.findall(r'<section class="comparison".*?</section>', page.html, flags=re.S)
    columns = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', sections[1])
    assert columns[:4] == ["Run", "Loss", "mae", "bleu"]
    assert "Top-1 accuracy" in sections[0]
    bold = re.findall(r"<strong>(.*?)</strong>", sections[1])
    assert bold == ["2.2500", "9.0000"]  # nobody knows whether a higher bleu is better
    assert {"all-1-top_1.png", "all-2-mae.png"} <= page.pictures.keys()


def test_a_program_in_training_is_judged_by_what_it_monitors(world: World) -> None:
    world.submit("houses", program={"name": "x"}, checkpoint={"best": {"monitor": "val_mae"}})
    world.train("houses", CURVES)
    assert "Its best validation mae so far is 3.0000." in text_of(report(world)[1])


def test_a_job_that_is_named_must_exist(world: World) -> None:
    with pytest.raises(NotFoundError):
        collect(world.queue, ["nobody"], now=world.clock())


def test_an_empty_store_makes_a_page_too(world: World) -> None:
    found, page = report(world)
    assert found.problems == []
    assert "no jobs in this store yet" in text_of(page)


def test_matplotlibs_global_state_is_left_alone(world: World) -> None:
    """Settings change only while something is drawn."""
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    evaluated(world, "cats")
    report(world)
    assert dict(mpl.rcParams) == before


def test_a_folder_of_large_files_is_not_opened_for_a_few_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, links = tmp_path / "data", tmp_path / "links"
    data.mkdir()
    links.mkdir()
    (links / "data").symlink_to(data)
    for name in ("train-0.npz", "test-0.npz"):
        (data / name).write_bytes(b"0" * 600)
    assert examples._out_of_reach(str(data)) is None
    monkeypatch.setattr(examples, "LARGEST", 1000)
    for folder in (data, links):
        assert "too large" in (examples._out_of_reach(str(folder)) or "")
