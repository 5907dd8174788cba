"""Azure: scheduled events of a virtual machine.

One document lists the events of this machine and of its neighbours in an availability or scale
set; `Resources` names whom each is for. Preempt (30 seconds ahead), Terminate (5 to 15 minutes),
Redeploy (10 minutes, or days) and Reboot (15 minutes) end this process, Freeze does not. An event
begins at `NotBefore` at the earliest; that is blank once it has begun. We never approve an event:
that would begin it for all machines that it names.

The first request enables the service for the machine and may take two minutes.

Sources: learn.microsoft.com/azure/virtual-machines/linux/scheduled-events,
…/linux/instance-metadata-service.
"""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.engine.notices.base import DMI, Notice, firmware, may_be
from runner.engine.notices.link_local import ADDRESS, PROBE_SECONDS, Answer, ask, moment

HEADERS = {"Metadata": "true"}
ENDPOINT = "RUNNER_AZURE_METADATA_HOST"
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
ASSET_TAG = "7783-7084-3265-9085-8269-3286-77"  #: of every chassis in Azure
SLOW_SECONDS = 130.0  #: for the first answer
ENDS = {
    "Preempt": "this spot machine is being evicted",
    "Terminate": "this machine is being deleted",
    "Redeploy": "this machine is being moved to another host",
    "Reboot": "this machine is being rebooted",
}


class ScheduledEvents:
    """The events of this machine."""

    name = "Azure scheduled events"

    def __init__(self, environ: Mapping[str, str] = os.environ, dmi: Path = DMI) -> None:
        self._environ = environ
        self._dmi = dmi
        self._host = environ.get(ENDPOINT) or ADDRESS
        self._machine = ""  # its name in the events

    def is_here(self) -> bool:
        """Whether the service knows the machine's name."""
        azure = firmware("chassis_asset_tag", self._dmi) == ASSET_TAG
        if not may_be(self._environ, self._dmi, override=ENDPOINT, known=azure):
            return False
        try:
            answer = ask(self._host, NAME, headers=HEADERS, timeout_seconds=PROBE_SECONDS)
        except OSError:
            return False
        self._machine = answer.text
        return answer.status == 200 and bool(answer.text)

    def look(self) -> Notice | None:
        """The event that comes first."""
        answer = ask(self._host, EVENTS, headers=HEADERS, timeout_seconds=SLOW_SECONDS)
        found = list(self._notices(answer)) if answer.status == 200 else []
        return min(found, key=lambda notice: notice.seconds_left or 0.0, default=None)

    def _notices(self, answer: Answer) -> Iterator[Notice]:
        for event in _events(answer.text):
            kind = str(event.get("EventType"))
            resources = event.get("Resources")
            ours = not isinstance(resources, list) or self._machine in resources
            if ours and kind in ENDS:
                left = _seconds(str(event.get("NotBefore") or ""), answer.at)
                yield Notice(text=f"Azure: {ENDS[kind]} ({kind})", seconds_left=left)


def _events(text: str) -> list[Mapping[str, Any]]:
    try:
        document = json.loads(text)
    except ValueError:
        return []
    events = document.get("Events") if isinstance(document, dict) else None
    return [event for event in events or () if isinstance(event, dict)]


def _seconds(not_before: str, now: datetime) -> float:
    begins = moment(not_before)
    return 0.0 if begins is None else max(0.0, (begins - now).total_seconds())
