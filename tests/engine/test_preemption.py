"""A stop request interrupts what it may, when it may, and keeps time for the release."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from runner.engine.notices.watcher import watching
from runner.engine.preemption import SIGNALS, StopRequest
from runner.errors import PreemptedError


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGURG)}
    hook = sys.unraisablehook
    request = StopRequest()
    request.install()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


class Dying:
    """Python drops what is raised in here."""

    def __del__(self) -> None:
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            pass


@pytest.mark.parametrize("slow", [0.0, 0.1])
def test_an_interruption_that_falls_into_a_finalizer_is_not_lost(
    slow: float,
    stop: StopRequest,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def starting(thread: threading.Thread) -> None:
        start(thread)
        time.sleep(slow)  # on a busy machine the thread is done before its maker goes on

    monkeypatch.setattr(threading.Thread, "start", starting)
    after(0.1, lambda: stop.set("this machine is being preempted", seconds_left=30))
    dying = [Dying()]

    def work() -> None:
        dying.clear()
        threading.Event().wait(5)

    with pytest.raises(PreemptedError, match="being preempted"), stop.interrupting():
        work()
    assert "Exception ignored" not in capfd.readouterr().err


def after(seconds: float, action: object) -> None:
    assert callable(action)
    threading.Timer(seconds, action).start()


def test_a_notice_interrupts_what_has_nothing_to_save(stop: StopRequest) -> None:
    """While a network is built nobody asks; a wait for a lock or a download is ended too."""
    after(0.2, lambda: stop.set("GCE: this machine is being preempted", seconds_left=30))
    with pytest.raises(PreemptedError, match="being preempted"), stop.interrupting():
        threading.Event().wait(60)
    assert stop.signal is None


def test_the_signal_that_wakes_the_main_thread_stops_nothing_when_others_send_it(
    stop: StopRequest,
) -> None:
    with stop.interrupting():
        signal.raise_signal(signal.SIGURG)  # as a socket's urgent data does
    assert stop.reason is None


def test_a_library_that_goes_on_after_any_exception_is_interrupted(stop: StopRequest) -> None:
    """TensorFlow's tracing takes whatever is raised in it for a fault of its own, and goes on."""

    def trace() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except Exception as error:  # noqa: BLE001 - as that library does
            pytest.fail(f"taken for its own: {error!r}")

    with pytest.raises(PreemptedError, match="SIGTERM"), stop.interrupting():
        trace()


def test_an_import_that_a_signal_breaks_off_is_no_failure(stop: StopRequest) -> None:
    """The initialiser of an extension module makes an ImportError of whatever is raised in it."""

    def load() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ImportError("initialization failed") from error

    with pytest.raises(PreemptedError, match="nothing is lost"), stop.interrupting():
        load()
    with pytest.raises(ImportError, match="no such thing"), StopRequest().interrupting():
        raise ImportError("no such thing")


def test_a_notice_does_not_interrupt_a_training_that_can_save(stop: StopRequest) -> None:
    with watching(stop, among=[]), stop.interrupting():
        stop.at_once = False
        after(0.0, lambda: stop.set("notice", seconds_left=30))
        time.sleep(0.6)
        assert stop.reason == "notice"


def test_when_the_time_for_saving_is_over_it_is_interrupted_wherever_it_is(
    stop: StopRequest,
) -> None:
    def upload() -> None:
        with stop.interrupting():
            stop.at_once = False
            stop.set("notice", seconds_left=2)
            threading.Event().wait(60)

    began = time.monotonic()
    with watching(stop, among=[]), pytest.raises(PreemptedError, match="no time was left"):
        upload()
    assert 1 < time.monotonic() - began < 2, "some time must be kept for the release"
    stop.call_last()  # tidying up is left in peace
    time.sleep(0.1)


def test_what_was_asked_before_the_stage_begins_keeps_it_from_beginning(stop: StopRequest) -> None:
    stop.set("notice", seconds_left=30)
    with pytest.raises(PreemptedError, match="notice"), stop.interrupting():
        pytest.fail("begun")


def test_letting_go_is_not_interrupted(stop: StopRequest) -> None:
    with watching(stop, among=[]):
        stop.set("notice", seconds_left=0)
        time.sleep(0.6)


def test_the_signal_that_follows_a_notice_is_the_first_not_the_second() -> None:
    """The system sends SIGTERM when it is switched off: no reason to drop everything."""
    code = (
        "import os, signal, time\n"
        "from runner.engine.preemption import StopRequest\n"
        "stop = StopRequest(); stop.install()\n"
        "stop.set('notice', seconds_left=30)\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)\n"
        "print(stop.reason, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)\n"
        "print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("notice\n", 128 + signal.SIGTERM)


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
def test_sighup_is_no_second_wish(first: signal.Signals) -> None:
    """Where a terminal is closed, a shell and the kernel each send one."""
    code = (
        "import os, signal, sys, time\n"
        "from runner.engine.preemption import StopRequest\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "stop = StopRequest(); stop.install()\n"
        "for number in (int(sys.argv[1]), signal.SIGHUP):\n"
        "    os.kill(os.getpid(), number); time.sleep(0.1)\n"
        "print(stop.reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(int(first))], capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == (f"{first.name}\n", 0)


def test_sigterm_in_a_pod_comes_with_its_grace(stop: StopRequest) -> None:
    pod = StopRequest(grace_seconds=40)
    pod.install()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    assert pod.seconds_left is not None
    assert 34 < pod.seconds_left <= 35
    pod.set("a later notice", seconds_left=8)
    assert pod.reason == "SIGTERM"
    assert 5 < pod.seconds_left <= 6, "the nearest end counts"


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), RuntimeError("reentrant call")])
def test_a_signal_that_cannot_be_told_of_stops_all_the_same(
    stop: StopRequest, error: Exception
) -> None:
    """A closed terminal, or a write to it that the signal interrupts, fails no training."""

    def say(_: str) -> None:
        raise error

    deaf = StopRequest(say)
    deaf.install()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    assert stop.reason is None
    assert deaf.reason == "SIGTERM"
