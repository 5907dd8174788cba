"""Google Compute Engine: preemption of a spot machine, maintenance of its host.

`instance/preempted` turns from FALSE to TRUE when a spot or preemptible machine is taken back:
30 seconds, then it is switched off. `instance/maintenance-event` turns from NONE to
TERMINATE_ON_HOST_MAINTENANCE 60 seconds ahead at least; MIGRATE_ON_HOST_MAINTENANCE is no end,
the machine moves while it runs. Google gives that warning only to those who ask beforehand.

The server holds a request until the value changes (`wait_for_change`, with the `last_etag` that
came with the value that we know), so a notice is here as soon as it is there.

Sources: cloud.google.com/compute/docs/metadata/querying-metadata,
…/metadata/getting-live-migration-notice, …/instances/create-use-spot; the environment variables
and the product name are those of google-auth.
"""

from typing import ClassVar

from runner.engine.notices.base import ANSWER_SECONDS, PROBE_SECONDS, Notice, Service

HOLD_SECONDS = 30  #: the server is asked to answer after this, changed or not


class _Key(Service):
    """One metadata key of this machine, watched."""

    variables = ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP")
    headers: ClassVar = {"Metadata-Flavor": "Google"}
    key: ClassVar[str]
    value: ClassVar[str]  #: that announces the end
    text: ClassVar[str]
    seconds: ClassVar[float]  #: that are left then
    _etag = ""

    def is_here(self) -> bool:
        """Whether a metadata server of Google's answers."""
        return self.environ.get("NO_GCE_CHECK", "").lower() != "true" and super().is_here()

    def is_likely(self) -> bool:
        """Whether the firmware is Google's."""
        return self.firmware("product_name").startswith("Google")

    def answers(self) -> bool:
        """Whether who answers is Google's server."""
        answer = self.ask("/", timeout_seconds=PROBE_SECONDS)
        return answer.headers.get("metadata-flavor") == "Google"

    def look(self) -> Notice | None:
        """The value when it has changed, or after a while."""
        path = f"/computeMetadata/v1/instance/{self.key}"
        hold = HOLD_SECONDS if self._etag else 0
        if hold:
            path += f"?wait_for_change=true&last_etag={self._etag}&timeout_sec={hold}"
        answer = self.ask(path, timeout_seconds=hold + ANSWER_SECONDS)
        self._etag = answer.headers.get("etag", "") if answer.status == 200 else ""
        if answer.status != 200 or answer.text.upper() != self.value:
            return None
        return Notice(text=f"GCE: {self.text}", seconds_left=self.seconds)


class Preempted(_Key):
    """A spot machine that is taken back, and switched off."""

    name = "GCE preemption"
    key = "preempted"
    value = "TRUE"
    text = "this machine is being preempted"
    seconds = 30


class Maintenance(_Key):
    """Maintenance of the host that ends the machine, not the move to another host."""

    name = "GCE maintenance"
    key = "maintenance-event"
    value = "TERMINATE_ON_HOST_MAINTENANCE"
    text = "host maintenance ends this machine"
    seconds = 60
