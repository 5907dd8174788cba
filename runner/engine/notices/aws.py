"""Amazon EC2: interruption of a spot instance, and the recommendation to leave it.

`spot/instance-action` is absent (404) until the instance is to be stopped, terminated or
hibernated, about two minutes ahead: `{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`.
`events/recommendations/rebalance` (`{"noticeTime": …}`) speaks of an elevated risk, earlier and
often in vain: then a checkpoint is made, and the work goes on.

Everything needs a session token (IMDSv2); like Amazon's own clients we go without where the
service has none. In a container on a bridge network the token does not arrive unless the
instance's hop limit is 2: then no notice is heard.

Sources: docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html,
…/rebalance-recommendations.html, …/configuring-instance-metadata-service.html; the environment
variables are botocore's.
"""

import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from runner.engine.notices.base import DMI, Notice, firmware, may_be
from runner.engine.notices.link_local import (
    ADDRESS,
    ANSWER_SECONDS,
    PROBE_SECONDS,
    Answer,
    ask,
    moment,
)

TOKEN_SECONDS = 3600
ENDPOINT = "AWS_EC2_METADATA_SERVICE_ENDPOINT"


class Spot:
    """A spot instance."""

    name = "EC2 spot"

    def __init__(self, environ: Mapping[str, str] = os.environ, dmi: Path = DMI) -> None:
        self._environ = environ
        self._dmi = dmi
        endpoint = urlsplit(environ.get(ENDPOINT) or f"http://{ADDRESS}")
        self._host = endpoint.netloc or endpoint.path
        self._token = ""
        self._token_until = 0.0

    def is_here(self) -> bool:
        """Whether the service gives a token, or an instance's id without one."""
        if self._environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return False
        words = [
            firmware(name, self._dmi) for name in ("sys_vendor", "bios_vendor", "bios_version")
        ]
        amazon = any("amazon" in word.lower() for word in words)
        if not may_be(self._environ, self._dmi, override=ENDPOINT, known=amazon):
            return False
        try:
            answer = self._get("instance-id", timeout_seconds=PROBE_SECONDS)
        except OSError:
            return False
        return answer.status == 200 and answer.text.startswith("i-")

    def look(self) -> Notice | None:
        """The interruption, else the recommendation."""
        action = self._get("spot/instance-action")
        if action.status == 200:
            said = _document(action)
            what = {"stop": "stopped", "terminate": "terminated", "hibernate": "hibernated"}
            verb = what.get(str(said.get("action")), "interrupted")
            left = _seconds(moment(str(said.get("time"))), action.at)
            return Notice(text=f"EC2: this spot instance is being {verb}", seconds_left=left)
        if self._get("events/recommendations/rebalance").status == 200:
            text = "EC2: this spot instance is at an elevated risk of interruption"
            return Notice(text=text, seconds_left=None, certain=False)
        return None

    def _get(self, key: str, timeout_seconds: float = ANSWER_SECONDS) -> Answer:
        answer = self._ask(key, timeout_seconds)
        if answer.status == 401:  # the token has lapsed, whatever we thought of it
            self._token_until = 0.0
            answer = self._ask(key, timeout_seconds)
        return answer

    def _ask(self, key: str, timeout_seconds: float) -> Answer:
        if time.monotonic() >= self._token_until:
            self._fetch_token(timeout_seconds)
        headers = {"X-aws-ec2-metadata-token": self._token} if self._token else {}
        path = f"/latest/meta-data/{key}"
        return ask(self._host, path, headers=headers, timeout_seconds=timeout_seconds)

    def _fetch_token(self, timeout_seconds: float) -> None:
        answer = ask(
            self._host,
            "/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)},
            timeout_seconds=timeout_seconds,
        )
        if answer.status not in (200, 403, 404, 405):
            msg = f"EC2 gave no metadata token: status {answer.status}"
            raise OSError(msg)
        self._token = answer.text if answer.status == 200 else ""
        self._token_until = time.monotonic() + TOKEN_SECONDS / 2


def _document(answer: Answer) -> Mapping[str, object]:
    try:
        found = json.loads(answer.text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(until: datetime | None, now: datetime) -> float | None:
    return None if until is None else max(0.0, (until - now).total_seconds())
