"""What people read while a job is worked on, and what fits on their terminals."""

import io
import os
import pty
import re
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from runner.cli import live, words
from runner.cli.live import InPlaceReporter, LiveReporter, PlainReporter
from runner.cli.render import fitting, show
from runner.engine import pace
from runner.queue.job import Job, Stage, State, submitted
from runner.queue.queue import Queue
from runner.store.filesystem import open_store
from runner.training.progress import Progress
from tests.harness import REPOSITORY

EPOCHS = 15


def trained(epochs: int) -> Job:
    job = submitted("cats", {"name": "cats"}, datetime.now(UTC))
    return replace(job, kind="finish", stage=Stage.EVALUATE, epoch=epochs, step=36 * epochs)


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (EPOCHS, "cats: training ended after 15 epochs, at step 540; evaluation queued"),
        (9, "cats: training stopped early after 9 epochs, at step 324; evaluation queued"),
        (1, "cats: training stopped early after 1 epoch, at step 36; evaluation queued"),
    ],
)
def test_a_training_that_stopped_early_is_told(
    capsys: pytest.CaptureFixture[str], epochs: int, said: str
) -> None:
    reporter, job = PlainReporter(), trained(epochs)
    reporter.started(job)
    reporter.progressed(
        job,
        Progress(
            stage="train",
            epoch=epochs,
            epochs=EPOCHS,
            step=0,
            steps=36,
            global_step=36 * epochs,
            metrics={},
        ),
    )
    reporter.ended(job)
    assert capsys.readouterr().err.splitlines()[-1] == said
    job = replace(job, final={"weights": "of epoch 2, its best loss"}, state=State.SUCCEEDED)
    reporter.ended(job)
    told = "cats: succeeded with the weights of epoch 2, its best loss"
    assert capsys.readouterr().err.splitlines()[-1] == told


@pytest.mark.parametrize(
    ("epoch", "said"),
    [
        (0, "cats: resuming at step 20 (attempt 2)"),
        (3, "cats: resuming after epoch 3, at step 128 (attempt 2)"),
    ],
)
def test_an_attempt_says_where_it_goes_on(
    capsys: pytest.CaptureFixture[str], epoch: int, said: str
) -> None:
    step = 36 * epoch + 20
    job = submitted("cats", {"name": "cats"}, datetime.now(UTC))
    PlainReporter().started(
        replace(job, attempts=2, epoch=epoch, step=step, checkpoints=({"step": step},))
    )
    assert capsys.readouterr().err.splitlines() == [said]


def test_a_held_job_is_said_with_what_lets_it_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    PlainReporter().ended(replace(trained(1), state=State.HELD))
    assert capsys.readouterr().err == "cats: held; 'runner unhold cats' lets it be taken up again\n"


@pytest.mark.parametrize("verb", ["unhold", "release"])
def test_a_reason_that_names_the_command_is_said_as_it_is(
    capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """Also one that an older version has stored."""
    reason = f"its budget is spent; 'runner {verb} cats' gives it as much again"
    PlainReporter().ended(replace(trained(1), state=State.HELD, reason=reason))
    assert capsys.readouterr().err == f"cats: held: {reason}\n"


# ---------------------------------------------------------------------- progress

METRICS = {"loss": 2.7368, "top_1": 0.3470, "val_loss": 3.2996, "val_top_1": 0.1080}


def at(step: int, **more: Any) -> Progress:
    """Where a training of 15 epochs of 36 steps is after so many, after its epoch's end."""
    told = {
        "epoch": step // 36, "step": step % 36, "epochs": EPOCHS, "steps": 36, "global_step": step,
        "batch_size": 32, "steps_per_second": 41.6, "metrics": METRICS, "unsaved_seconds": 2.0,
        **more,
    }  # fmt: skip
    return Progress(stage="train", **told)


def untrained(name: str = "cats") -> Job:
    return submitted(name, {"name": name}, datetime.now(UTC))


class Screen:
    """A terminal of so many columns, and a reporter that draws on it."""

    def __init__(self, width: int, name: str) -> None:
        self.console = Console(file=io.StringIO(), force_terminal=True, width=width)
        self.reporter, self.job = LiveReporter(self.console), untrained(name)
        self.reporter.started(self.job)

    def progressed(self, *steps: int) -> None:
        for step in steps:
            self.reporter.progressed(self.job, at(step))

    @property
    def line(self) -> str:
        shown = self.console.render_lines(self.reporter.live.get_renderable())
        assert len(shown) == 1
        text = "".join(segment.text for segment in shown[0]).rstrip()
        assert len(text) <= self.console.width - len("^C")
        return text

    @property
    def behind(self) -> list[str]:
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", ["cats", "a-study-of-digits-wide-and-deep-17"])
def test_the_live_line_keeps_what_matters_and_gives_up_bar_and_speed_first(
    width: int, name: str
) -> None:
    screen = Screen(width, name)
    screen.progressed(0, 1, 2)
    assert f" {name} " in screen.line
    assert " unsaved 2s, epoch 1/15" in screen.line
    assert "val_top_1" not in screen.line or name == "cats"
    assert (", loss 2.7368" in screen.line, "examples/s" in screen.line) == (
        name == "cats" or width == 100,
        False,
    )
    screen = Screen(240, name)
    screen.progressed(0, 1, 2)
    assert screen.line.endswith("1331 examples/s, loss 2.7368  top_1 0.3470  val_loss 3.2996"
                                "  val_top_1 0.1080")  # fmt: skip


@pytest.mark.parametrize(
    ("size", "rate", "said"),
    [
        (32, 41.6, "1331 examples/s"),
        (0, 41.6, "42 steps/s"),
        (0, 0.312, "0.31 steps/s"),
        (0, None, ""),
    ],
)
def test_a_speed_counts_examples_where_their_number_is_known(
    size: int, rate: float | None, said: str
) -> None:
    assert words.speed(at(1, batch_size=size, steps_per_second=rate)) == said


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_steps_are_timed_whatever_is_in_them(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, seen = pace.Pace(), at(0)
    for step in range(5):
        clock = SimpleNamespace(monotonic=lambda step=step: 100 + 0.25 * step)
        monkeypatch.setattr(pace, "time", clock)
        seen = measured.timed(replace(at(step), stage=stage, batch_size=0))
    assert seen.steps_per_second == pytest.approx(4.0)
    assert measured.moved == (stage == "train")


def test_what_a_first_validation_takes_to_trace_is_no_time_of_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured, now = pace.Pace(), 0.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))

    def eta(step: int, after: float, stage: str = "train") -> float | None:
        nonlocal now
        now += after
        return measured.eta_seconds(replace(at(step), stage=stage))

    assert [eta(34, 0), eta(35, 50), eta(36, 1)] == [None, None, 504]
    eta(36, 1, "validate")
    assert eta(36, 40) is None
    assert eta(40, 4) == 500
    eta(72, 32)
    eta(72, 1, "validate")
    assert eta(72, 1) == 468 * 38 / 36


@pytest.mark.parametrize(
    ("spec", "metrics", "said"),
    [
        (
            {"training": {"early_stopping": {"monitor": "val_mae"}}},
            {"loss": 4.0, "mae": 2.0, "mse": 9.0, "val_loss": 5.0, "val_mae": 3.0},
            "val_mae 3.0000  mae 2.0000  loss 4.0000  val_loss 5.0000",
        ),
        (
            {"checkpoint": {"best": {"monitor": "val_dice"}}, "training": [1]},
            {"dice": 0.5, "learning_rate": 1e-5, "loss": 1.0},
            "dice 0.5000  loss 1.0000  learning_rate 1e-05",
        ),
        ({}, {"d_loss": 0.7, "g_loss": 1.0}, "d_loss 0.7000  g_loss 1.0000"),
    ],
)
def test_metrics_have_any_names_and_those_monitored_come_first(
    spec: dict[str, Any], metrics: dict[str, float], said: str
) -> None:
    job = submitted("cats", {"name": "cats", **spec}, datetime.now(UTC))
    assert words.epoch_line(job, at(36, metrics=metrics)) == f"  epoch 1/15, {said}"


def test_a_clock_runs_until_the_first_step_and_while_none_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen(80, "cats")

    def passes(seconds: float) -> None:
        monkeypatch.setattr(live, "monotonic", lambda: monotonic() + seconds)

    waiting = LiveReporter(screen.console)
    screen.progressed(0)  # tells where it begins: no step is done
    passes(75)
    assert screen.line.endswith("building the network, 75s")
    screen.reporter, training = LiveReporter(screen.console), screen.reporter
    screen.reporter.started(replace(screen.job, stage=Stage.EVALUATE))
    passes(150)
    assert screen.line.endswith("loading what is evaluated, 75s")
    passes(75)
    screen.reporter = waiting
    assert screen.line.endswith("starting, or waiting for a job, 75s")
    screen.reporter = training
    screen.progressed(1)
    passes(150)
    assert "no step for 75s, epoch 1/15" in screen.line
    monkeypatch.undo()
    assert "epoch 1/15, step 1/36" in screen.line
    assert "no step" not in screen.line


def test_each_epoch_leaves_a_line_of_80_columns_behind_on_a_terminal() -> None:
    screen = Screen(80, "cats")
    screen.progressed(0, 20, 36, 40, 72)
    assert screen.behind == [
        "cats: training",
        *(
            f"  epoch {epoch}/15, loss 2.7368  top_1 0.3470  val_loss 3.2996  val_top_1 0.1080"
            for epoch in (1, 2)
        ),
    ]


def test_metrics_for_which_a_narrow_terminal_has_no_room_are_left_out() -> None:
    screen = Screen(60, "cats")
    screen.progressed(0, 20, 36)
    (line,) = screen.behind[1:]
    assert line == "  epoch 1/15, loss 2.7368  top_1 0.3470  val_loss 3.2996"


def test_each_epoch_leaves_a_line_behind_in_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    reporter, job = InPlaceReporter(), untrained()
    reporter.started(job)
    for step in (0, 20, 36, 40, 72):
        reporter.progressed(job, at(step))
    lines = capsys.readouterr().err.split("\n")
    assert [line[:12] for line in lines if "epoch" in line] == ["  epoch 1/15", "  epoch 2/15"]


def test_nothing_is_said_of_data_without_size_nor_of_an_epoch_that_was_ended_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(live, "IN_PLACE_SECONDS", 0.0)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    for reporter in (PlainReporter(), InPlaceReporter(), LiveReporter(console)):
        reporter.started(untrained())
        capsys.readouterr()
        reporter.progressed(untrained(), Progress(stage="reading data"))
        assert not capsys.readouterr().err
        reporter.progressed(untrained(), at(36, metrics={}))
        assert "1/15, \n" not in capsys.readouterr().err
    assert "epoch" not in screen.getvalue()


def test_a_log_file_does_not_end_in_data_that_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a line has told of them, another tells that they are here."""
    for seconds, said in (
        (0.0, ["reading data, 4 of 6 MB", "6 MB of data read; building the network and"]),
        (1e9, []),
    ):
        monkeypatch.setattr(live, "PLAIN_SECONDS", seconds)
        reporter = PlainReporter()
        reporter.started(untrained())
        capsys.readouterr()
        reporter.progressed(untrained(), Progress(stage="reading data", step=4, steps=6))
        monkeypatch.setattr(live, "PLAIN_SECONDS", 1e9)
        for _ in range(2):
            reporter.progressed(
                untrained(), Progress(stage="reading data", step=6, steps=6, eta_seconds=0)
            )
        lines = capsys.readouterr().err.splitlines()
        assert [line[6 : 6 + len(text)] for line, text in zip(lines, said, strict=True)] == said
        assert not any("ETA" in line for line in lines[1:])


def test_quick_epochs_do_not_fill_a_log_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is said, and the last with what was reached; the others every few seconds."""
    monkeypatch.setattr(live, "EPOCH_SECONDS", 1e9)
    monkeypatch.setattr(live, "PLAIN_SECONDS", 1e9)
    reporter, job = PlainReporter(), untrained()
    reporter.started(job)
    for step in range(0, 36 * EPOCHS + 1, 6):
        reporter.progressed(job, at(step))
    lines = capsys.readouterr().err.splitlines()
    assert [line[:16] for line in lines] == [
        "cats: training",
        "cats: epoch 1/15",
        "cats: epoch 15/1",
    ]
    monkeypatch.setattr(live, "EPOCH_SECONDS", 0)
    reporter.started(job)
    for step in range(0, 36 * EPOCHS + 1, 6):
        reporter.progressed(job, at(step))
    assert len(capsys.readouterr().err.splitlines()) == 1 + EPOCHS


WORKS_ON_A_TERMINAL = """
import sys, time
from runner.cli.main import main
from runner.engine import running
from runner.training import quiet
from tests.engine.counting import Counting

def on_step(job, step):
    quiet._load = lambda: time.sleep(60)
    quiet.import_keras()

quiet._load = lambda: None
running.run_stage = Counting(3, on_step)
sys.exit(main(["work", "--until-empty"]))
"""


def test_ctrl_c_writes_lines_of_its_own_and_leaves_a_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line that moves is taken away first, with the terminal's ^C behind it, also while an
    import is kept from writing."""
    monkeypatch.setenv("RUNNER_STORE", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    name = "a-study-of-digits-wide-and-deep-17"
    Queue(open_store(str(tmp_path))).submit(name, {"name": name})
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it
        os.execv(sys.executable, [sys.executable, "-c", WORKS_ON_A_TERMINAL])
    said = b""
    for wanted in (b"step 1", b"once more to leave at once", b"leaving at once; "):
        while wanted not in said:
            try:
                said += os.read(terminal, 65536)
            except OSError:  # it has ended
                pytest.fail(said.decode())
        os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    os.close(terminal)
    text = said.decode()
    drawn, _, after = text.partition("^C")
    assert re.match(r"\r\x1b\[2KSIGINT: saving and releasing the job; once more to leave", after)
    frame = re.sub(r"\x1b\[[0-9;]*m", "", drawn.rpartition("\x1b[2K")[2])
    assert name in frame
    assert len(frame) + len("^C") < 80
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "'runner resume' continues from what is saved" in text


# ---------------------------------------------------------------------- tables

HEADER = ("ID", "STATUS", "METRIC", "", "TRY", "WORKER", "SEEN", "NOTHING", "ETA")
ROWS = [
    HEADER,
    ("wide", "running", "loss 1.2210", "top_1 0.4123", "1", "colab-7:310", "4s ago", "", "41m"),
    ("narrow", "queued, after " + "another, " * 9, "loss 2.0172", "", "2", "", "", "", ""),
]


@pytest.mark.parametrize(
    ("width", "gone"), [(100, []), (80, ["top_1"]), (60, ["top_1", "WORKER", "SEEN"]), (30, [])]
)
def test_a_table_has_a_line_a_job_and_fits_the_terminal(width: int, gone: list[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    console.print(fitting(ROWS, ["cyan", ""], width))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert len(lines) == len(ROWS)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "NOTHING" not in text
    assert "…" in lines[2]
    assert all(word not in text for word in gone)
    kept = {"running", "wide", "narrow", "loss 1.2210", "loss 2.0172", "ETA", "41m"}
    others = {"top_1", "WORKER", "colab-7:310", "SEEN", "4s ago"} if width == 100 else set()
    assert all(word in text for word in (kept | others) if width >= 60)


STATES = [
    ("ID", "STATUS", "PROGRESS", "METRIC", "", "TRY", "WORKER", "SEEN", "UNSAVED", "ETA"),
    ("drill-a8df0d06-undisturbed", "running", "epoch 12 step 4120", "loss 1.2210", "top_1 0.4123",
     "1", "colab-7:310", "4s ago", "12s", "41m"),
    ("cats", "lost 2m10s, can be resumed", "epoch 0 step 0", "", "", "12", "", "", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (130, "ID STATUS PROGRESS METRIC TRY WORKER SEEN UNSAVED ETA"),
        (105, "ID STATUS PROGRESS METRIC UNSAVED ETA"),
        (100, "ID STATUS PROGRESS METRIC ETA"),
        (90, "ID STATUS PROGRESS ETA"),
        (80, "ID STATUS PROGRESS ETA"),
        (70, "ID STATUS"),
        (40, "ID STATUS"),
    ],
)
def test_a_long_id_costs_other_columns_and_never_the_status(width: int, columns: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    console.print(fitting(STATES, ["cyan", "yellow"], width))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines[0].split() == columns.split()
    assert max(map(len, lines)) <= width
    assert "lost 2m10s, can be resumed" in lines[2]
    assert "drill-a8df0d06-undisturbed  running" in lines[1] or ("…" in lines[1] and width < 56)


def test_a_narrow_table_keeps_its_first_column() -> None:
    rows = [("WORKER", "DOES", "SEEN"), ("a-worker-with-a-long-name", "digits", "4s ago")]
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=20)
    console.print(fitting(rows, [], 20))
    assert isinstance(console.file, io.StringIO)
    assert "a-work" in console.file.getvalue()
    assert "SEEN" not in console.file.getvalue()


def test_a_table_elsewhere_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "STATUS", "METRIC", "TRY", "WORKER", "SEEN", "ETA"]
    assert ROWS[2][1].strip() in lines[2]
    assert all(line == line.rstrip() for line in lines)
