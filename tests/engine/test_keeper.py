"""An engine's keeper: a worker in a process of its own, again while it may do more."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.engine import tether
from runner.engine.keeper import MOST_IN_VAIN, Keeper, Work
from tests.harness import REPOSITORY

#: says its pid, then ends with the next of the codes; without one it waits for a SIGTERM and saves
WORKER = """
import os, pathlib, signal, sys, time
here = pathlib.Path(os.environ["HERE"])
with (here / "starts").open("a") as file:
    file.write(f"{os.getpid()} {' '.join(sys.argv[1:])}\\n")
def save(number, frame):
    with (here / "signals").open("a") as file:
        file.write(f"{number}\\n")
    time.sleep(0.5)
    (here / "saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
codes = here / "codes"
left = codes.read_text().split() if codes.exists() else []
if left:
    codes.write_text(" ".join(left[1:]) or "stay")
if left and left[0] != "stay":
    code = int(left[0])
    os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
(here / "waits").touch()
time.sleep(60)
"""


@pytest.fixture
def keeper(tmp_path: Path) -> Callable[..., Keeper]:
    (tmp_path / "fake_worker.py").write_text(WORKER)

    def make(*codes: int, ends_at: float | None = None) -> Keeper:
        (tmp_path / "codes").write_text(" ".join(map(str, codes)))
        environment = {"HERE": str(tmp_path), "PYTHONPATH": str(tmp_path)}
        work = Work(
            module="fake_worker", arguments=("work",), environment=environment, ends_at=ends_at
        )
        return Keeper(work, pause=0.01)

    return make


def starts(folder: Path) -> list[str]:
    return (folder / "starts").read_text().splitlines()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 4, 5, 2, 6])
def test_what_the_same_again_would_not_mend_ends_it(
    keeper: Callable[..., Keeper], tmp_path: Path, code: int
) -> None:
    """Nothing left, left to others, cancelled, a wrong option, a bucket that refuses."""
    assert keeper(code).run() == code
    assert len(starts(tmp_path)) == 1


def test_a_worker_that_was_stopped_or_killed_comes_back(
    keeper: Callable[..., Keeper], tmp_path: Path
) -> None:
    """75, SIGKILL and a crash of the interpreter; a failure is what remains of it."""
    assert keeper(75, -signal.SIGKILL, -signal.SIGABRT, 0).run() == 0
    assert len(starts(tmp_path)) == 4


def test_a_failed_job_is_remembered(keeper: Callable[..., Keeper], tmp_path: Path) -> None:
    """It may have ended with others left; with nothing left it still is a failure."""
    assert keeper(1, 0).run() == 1
    assert len(starts(tmp_path)) == 2


def test_it_gives_up_on_a_worker_that_cannot_start(
    keeper: Callable[..., Keeper], tmp_path: Path
) -> None:
    """Instead of trying for ever what ends at once."""
    assert keeper(*[-signal.SIGSEGV] * 20).run() == 128 + signal.SIGSEGV
    assert len(starts(tmp_path)) == MOST_IN_VAIN


def test_a_stop_lets_the_worker_save(keeper: Callable[..., Keeper], tmp_path: Path) -> None:
    """And no other is started."""
    one = keeper()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(one.run()))
    thread.start()
    until((tmp_path / "waits").exists)
    one.stop()
    one.stop()  # asked again, it is not signalled again
    thread.join(60)
    assert codes == [75]
    assert (tmp_path / "saved").exists()
    assert len(starts(tmp_path)) == 1
    assert one.run() == 75


def test_a_second_call_has_no_second_worker(keeper: Callable[..., Keeper], tmp_path: Path) -> None:
    """Ray makes a call again whose answer was lost."""
    one = keeper()
    threads = [threading.Thread(target=one.run) for _ in range(2)]
    for thread in threads:
        thread.start()
    until((tmp_path / "waits").exists)
    time.sleep(0.5)
    one.stop()
    for thread in threads:
        thread.join(60)
    assert len(starts(tmp_path)) == 1


def test_the_worker_is_told_what_is_left_of_the_session(
    keeper: Callable[..., Keeper], tmp_path: Path
) -> None:
    """Each start anew, and none when it is over."""
    assert keeper(0, ends_at=time.time() + 3600).run() == 0
    duration = starts(tmp_path)[0].split()[-1]
    assert 3500 < float(duration.removesuffix("s")) <= 3600
    assert keeper(0, ends_at=time.time() + 1).run() == 75
    assert len(starts(tmp_path)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_the_worker_saves_when_the_engine_s_process_is_killed(tmp_path: Path) -> None:
    """Without it, a GPU would be in use of which the engine knows nothing."""
    (tmp_path / "fake_worker.py").write_text(WORKER)
    program = (
        "import threading, time\n"
        "from runner.engine.keeper import Keeper, Work\n"
        "for _ in range(8): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "Keeper(Work(module='fake_worker', environment={})).run()"
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, "HERE": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )
    until((tmp_path / "waits").exists)
    engine.kill()
    engine.wait()
    until((tmp_path / "saved").exists)
    # the kernel tells for each thread of the engine's; a second signal would not let it save
    assert (tmp_path / "signals").read_text().splitlines() == [str(int(signal.SIGTERM))]


def test_the_worker_gets_the_first_signal_only(tmp_path: Path) -> None:
    """An engine and the kernel may each send some; a second would end it with nothing saved."""
    (tmp_path / "fake_worker.py").write_text(WORKER)
    tied = subprocess.Popen(
        [sys.executable, tether.__file__, str(os.getpid()), "fake_worker"],
        env={**os.environ, "HERE": str(tmp_path), "PYTHONPATH": str(tmp_path)},
    )
    until((tmp_path / "waits").exists)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        tied.send_signal(number)
        until((tmp_path / "signals").exists)
    assert tied.wait(60) == 75
    assert (tmp_path / "signals").read_text().splitlines() == [str(int(signal.SIGTERM))]
    assert (tmp_path / "saved").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
@pytest.mark.parametrize("asked", [True, False])
def test_the_worker_saves_when_its_tether_is_killed(tmp_path: Path, asked: bool) -> None:
    """Ray kills an actor's children, also those that have just passed a SIGTERM on."""
    (tmp_path / "careful_worker.py").write_text(
        "import os, pathlib, time\n"
        "from runner.engine.preemption import StopRequest\n"
        "here = pathlib.Path(os.environ['HERE'])\n"
        "stop = StopRequest(); stop.install()\n"
        "(here / 'waits').touch()\n"
        "while stop.reason is None: time.sleep(0.01)\n"
        "(here / 'stops').touch()\n"
        "time.sleep(0.5)\n"
        "(here / 'saved').touch()\n"
    )
    tied = subprocess.Popen(
        [sys.executable, tether.__file__, str(os.getpid()), "careful_worker"],
        env={**os.environ, "HERE": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )
    until((tmp_path / "waits").exists)
    if asked:
        tied.terminate()
        until((tmp_path / "stops").exists)
    tied.kill()
    tied.wait()
    until((tmp_path / "saved").exists)
