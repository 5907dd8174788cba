"""Google's ml-goodput-measurement, given a timeline: its entries stay in memory, not in a cloud."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest


class Referee:
    """Records a job as that package's users do, and says what it makes of it.

    Times are seconds since 1970. A save is one of its custom events that block the training.
    """

    def __init__(self, folder: Path) -> None:
        goodput = pytest.importorskip("ml_goodput_measurement.src.goodput")
        self.entries: list[dict[str, Any]] = []
        self.job_name = "referee"
        self._recorder = goodput.GoodputRecorder("referee", "", True, self)
        self._calculator = goodput.GoodputCalculator(
            "referee", "", self, cache_dir=str(folder / "referee")
        )

    def write_cloud_logging_entry(self, entry: dict[str, Any]) -> None:
        """What the recorder calls."""
        self.entries.append(entry)

    def read_cloud_logging_entries(self, *_args: Any, **_named: Any) -> tuple[list[Any], Any]:
        """What the calculator calls."""
        return self.entries, None

    def job_starts(self, at: float) -> None:
        self._recorder.record_job_start_time(datetime.fromtimestamp(at, UTC))

    def step_starts(self, step: int, at: float) -> None:
        self._recorder.record_step_start_time(step, datetime.fromtimestamp(at, UTC))

    def saved(self, begin: float, end: float) -> None:
        start, stop = (datetime.fromtimestamp(at, UTC) for at in (begin, end))
        self._recorder.record_custom_badput_event_start_time(start, "save")
        self._recorder.record_custom_badput_event_end_time(stop, "save")

    def job_ends(self, at: float) -> None:
        self._recorder.record_job_end_time(datetime.fromtimestamp(at, UTC))

    def goodput(self) -> float:
        """The productive share of the time from the first start to the end, 0 to 1."""
        share, _, _ = self._calculator.get_job_goodput()
        return float(share) / 100

    def productive_seconds(self) -> float:
        """After `goodput`."""
        details = self._calculator.get_job_goodput_details()
        return float(sum(details["goodput_time"].values()))

    def badput(self, name: str) -> float:
        """After `goodput`: the seconds of one of its causes."""
        details = self._calculator.get_job_goodput_details()
        return float({kind.name: value for kind, value in details["badput_time"].items()}[name])
