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

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from runner.engine.notices.base import DMI, Notice, firmware, may_be
from runner.engine.notices.link_local import ADDRESS, ANSWER_SECONDS, PROBE_SECONDS, Answer, ask

FLAVOR = {"Metadata-Flavor": "Google"}
HOLD_SECONDS = 30  #: the server is asked to answer after this, changed or not


class _Key:
    """One metadata key of this machine, watched."""

    name: ClassVar[str]
    key: ClassVar[str]

    def __init__(self, environ: Mapping[str, str] = os.environ, dmi: Path = DMI) -> None:
        self._environ = environ
        self._dmi = dmi
        self._etag = ""
        self._host = (
            environ.get("GCE_METADATA_HOST")
            or environ.get("GCE_METADATA_ROOT")
            or environ.get("GCE_METADATA_IP")
            or ADDRESS
        )

    def is_here(self) -> bool:
        """Whether a metadata server of Google's answers."""
        google = firmware("product_name", self._dmi).startswith("Google")
        if self._environ.get("NO_GCE_CHECK", "").lower() == "true":
            return False
        if not may_be(self._environ, self._dmi, override="GCE_METADATA_HOST", known=google):
            return False
        try:
            answer = ask(self._host, "/", headers=FLAVOR, timeout_seconds=PROBE_SECONDS)
        except OSError:
            return False
        return answer.headers.get("metadata-flavor") == "Google"

    def look(self) -> Notice | None:
        """The value when it has changed, or after a while."""
        path = f"/computeMetadata/v1/instance/{self.key}"
        hold = 0
        if self._etag:
            hold = HOLD_SECONDS
            path += f"?wait_for_change=true&last_etag={self._etag}&timeout_sec={hold}"
        answer = ask(self._host, path, headers=FLAVOR, timeout_seconds=hold + ANSWER_SECONDS)
        self._etag = answer.headers.get("etag", "") if answer.status == 200 else ""
        return self.notice(answer) if answer.status == 200 else None

    def notice(self, answer: Answer) -> Notice | None:
        """What this value announces."""
        raise NotImplementedError


class Preempted(_Key):
    """A spot machine that is taken back."""

    name = "GCE preemption"
    key = "preempted"

    def notice(self, answer: Answer) -> Notice | None:
        """TRUE: 30 seconds, then the machine is switched off."""
        if answer.text.upper() != "TRUE":
            return None
        return Notice(text="GCE: this machine is being preempted", seconds_left=30)


class Maintenance(_Key):
    """Maintenance of the host that ends the machine."""

    name = "GCE maintenance"
    key = "maintenance-event"

    def notice(self, answer: Answer) -> Notice | None:
        """The end, but not the move to another host."""
        if answer.text != "TERMINATE_ON_HOST_MAINTENANCE":
            return None
        return Notice(text="GCE: host maintenance ends this machine", seconds_left=60)
