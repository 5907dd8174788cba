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

from typing import ClassVar

from runner.engine.notices.base import PROBE_SECONDS, Notice, Service

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


class ScheduledEvents(Service):
    """The events of this machine."""

    name = "Azure scheduled events"
    variables = ("RUNNER_AZURE_METADATA_HOST",)
    headers: ClassVar = {"Metadata": "true"}
    _machine = ""  # its name in the events

    def is_likely(self) -> bool:
        """Whether the chassis is Azure's."""
        return self.firmware("chassis_asset_tag") == ASSET_TAG

    def answers(self) -> bool:
        """Whether the service knows the machine's name."""
        answer = self.ask(NAME, timeout_seconds=PROBE_SECONDS)
        self._machine = answer.text
        return answer.status == 200 and bool(answer.text)

    def look(self) -> Notice | None:
        """The event that comes first."""
        answer = self.ask(EVENTS, timeout_seconds=SLOW_SECONDS)
        events = answer.document.get("Events") if answer.status == 200 else None
        found = []
        for event in events if isinstance(events, list) else ():
            kind = str(event.get("EventType")) if isinstance(event, dict) else ""
            if kind in ENDS and self._is_ours(event.get("Resources")):
                # blank once the event has begun
                left = answer.seconds_until(str(event.get("NotBefore") or "")) or 0.0
                found.append((left, f"Azure: {ENDS[kind]} ({kind})"))
        if not found:
            return None
        left, text = min(found)
        return Notice(text=text, seconds_left=left)

    def _is_ours(self, resources: object) -> bool:
        return not isinstance(resources, list) or self._machine in resources
