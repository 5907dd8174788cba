"""What preemption costs on machines that really came and went, by the way a training is saved."""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import spot
from tests.benchmarks._tables import table
from tests.benchmarks.spot_training import EPOCHS, STEPS
from tests.harness import REPOSITORY, cifar

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

STARTS = 20  #: trainings in each zone, which begin at as many places of its trace
HOURS = 3600.0
SHAPES = [
    spot.Shape(name="the lost run: 170 s an epoch", epoch=170, start=25, work=4 * HOURS),
    spot.Shape(name="transfer learning: 600 s an epoch", epoch=600, start=25, work=4 * HOURS),
]
#: training blocked and restored, as test_checkpoints.py measures them for 69 MB; a bucket takes
#: another 3 s to write and to read
BUCKET = 3.0
KERAS = spot.Method(
    name="keras BackupAndRestore, each epoch",
    every=spot.every_epoch,
    blocked=0.669,
    restored=0.94 + BUCKET,
    whole_epochs=True,
)
OURS = spot.Method(name="runner", blocked=0.010, written=BUCKET, restored=0.22 + BUCKET)
ORBAX = "keras OrbaxCheckpoint, each epoch"
METHODS = [
    spot.Method(name="no checkpoint"),
    replace(KERAS, name="keras ModelCheckpoint, each epoch", blocked=0.855),
    KERAS,
    replace(KERAS, name="keras BackupAndRestore, save_freq of 30 s", every=spot.each("30s")),
    replace(KERAS, name=ORBAX, blocked=0.742, written=BUCKET, restored=2.4 + BUCKET),
    *(
        replace(OURS, name=f"runner, {every}, {said}", every=spot.each(every), notice=notice)
        for every in ("30s", "auto")
        for said, notice in (("no notice", 0), ("notice of 30 s", 30), ("of 2 minutes", 120))
    ),
    spot.Method(name="the best there can be", every=spot.every_epoch, notice=1e-9),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name.partition(":")[0])
def test_simulated(shape: spot.Shape) -> None:
    zones = spot.traces(cifar("spot_traces.json"))
    rows = []
    for method in METHODS:
        outcomes = [
            spot.simulate(shape, method, times)
            for trace in zones.values()
            for times in spot.from_each(trace, STARTS)
        ]
        rows.append((method.name, *_texts(outcomes)))
    table(
        f"{shape.name}, {shape.work / HOURS:g} h of steps, {shape.start:g} s to start; "
        f"{len(zones)} zones, {STARTS} trainings in each",
        ("", "machine hours", "most", "goodput", "minutes repeated", "interruptions", "ended"),
        rows,
    )


def _texts(outcomes: Sequence[spot.Outcome]) -> list[str]:
    ended = [one for one in outcomes if one.ended]
    hours = [one.paid / HOURS for one in outcomes]
    return [
        f"{statistics.mean(hours):.2f}",
        f"{max(hours):.1f}",
        f"{sum(one.kept for one in ended) / sum(one.paid for one in outcomes):.3f}",
        f"{statistics.mean(one.repeated for one in outcomes) / 60:.1f}",
        f"{statistics.mean(one.interruptions for one in outcomes):.1f}",
        f"{len(ended) / len(outcomes):.0%}",
    ]


ZONE, FASTER = "10-26-2022 us-west-2a", 60.0
MOST = 30  #: times that the machine is there
WAYS = {
    "runner": "runner, every two minutes of the trace",
    "keras": "keras BackupAndRestore, each epoch",
    "restart": "restart",
}


class Run:
    """One training, in one process after the other."""

    def __init__(self, how: str, folder: Path) -> None:
        self.how, self.folder = how, folder
        self.seconds = 0.0  #: that its processes ran
        self.starts: list[float] = []  #: seconds to the first step
        folder.mkdir()

    def there(self, seconds: float | None) -> None:
        """Train until the end, or for so long; then the process is killed."""
        before, began = self.made, time.time()
        command = [sys.executable, "-m", "tests.benchmarks.spot_training", self.how]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([*command, self.folder], cwd=REPOSITORY, stderr=log)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        process.wait()
        self.seconds += time.time() - began
        if self.made > before:
            self.starts.append(self._steps()[before] - began)

    def _steps(self) -> list[float]:
        path = self.folder / "steps"
        return [float(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def made(self) -> int:
        return len(self._steps())

    @property
    def digest(self) -> str | None:
        path = self.folder / "digest"
        return path.read_text() if path.exists() else None

    def texts(self, wanted: str | None) -> list[str]:
        kept = EPOCHS * STEPS if self.digest else 0
        same = "never ended" if self.digest is None else "yes" if self.digest == wanted else "no"
        repeated, speed = self.made - kept, kept / self.seconds
        return [f"{self.seconds:.0f}", f"{speed:.1f}", f"{repeated:,}", same]


def test_real(tmp_path: Path) -> None:
    """The same kills for all, and the time between them left out."""
    times = spot.traces(cifar("spot_traces.json"))[ZONE][:MOST]
    whole = {how: Run(how, tmp_path / f"undisturbed-{how}") for how in WAYS}
    together(whole.values(), None)
    runs = {how: Run(how, tmp_path / how) for how in WAYS}
    kills = 0
    for seconds in times:
        left = [run for run in runs.values() if run.digest is None]
        if not (runs["runner"] in left or runs["keras"] in left):
            break
        together(left, seconds / FASTER)
        kills += 1
    table(
        f"{ZONE}, an hour in a minute: {kills} times there, {EPOCHS * STEPS:,} steps, "
        f"{statistics.median(runs['runner'].starts):.1f} s to the first",
        ("", "machine s", "steps kept a second", "steps repeated", "undisturbed run's weights"),
        [(name, *runs[how].texts(whole[how].digest)) for how, name in WAYS.items()],
    )
    assert runs["runner"].digest in (None, whole["runner"].digest)


def together(runs: Collection[Run], seconds: float | None) -> None:
    """Train side by side: what disturbs the machine disturbs all of them."""
    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(lambda run: run.there(seconds), runs))
