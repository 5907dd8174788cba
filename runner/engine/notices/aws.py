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

import os
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from runner.engine.notices.base import ANSWER_SECONDS, DMI, PROBE_SECONDS, Answer, Notice, Service

TOKEN_SECONDS = 3600
_VERBS = {"stop": "stopped", "terminate": "terminated", "hibernate": "hibernated"}


class Spot(Service):
    """A spot instance."""

    name = "EC2 spot"
    variables = ("AWS_EC2_METADATA_SERVICE_ENDPOINT",)

    def __init__(self, environ: Mapping[str, str] = os.environ, dmi: Path = DMI) -> None:
        super().__init__(environ, dmi)
        endpoint = urlsplit(self.host)  # a URL, where the variable names it
        self.host = endpoint.netloc or endpoint.path
        self._token = ""
        self._token_until = 0.0

    def is_here(self) -> bool:
        """Whether the service gives a token, or an instance's id without one."""
        disabled = self.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        return not disabled and super().is_here()

    def is_likely(self) -> bool:
        """Whether the firmware is Amazon's, or the Xen that it used before."""
        names = ("sys_vendor", "bios_vendor", "bios_version")
        return any("amazon" in self.firmware(name).lower() for name in names)

    def answers(self) -> bool:
        """Whether the service knows an instance's id."""
        answer = self._get("instance-id", PROBE_SECONDS)
        return answer.status == 200 and answer.text.startswith("i-")

    def look(self) -> Notice | None:
        """The interruption, else the recommendation."""
        action = self._get("spot/instance-action")
        if action.status == 200:
            verb = _VERBS.get(str(action.document.get("action")), "interrupted")
            left = action.seconds_until(str(action.document.get("time")))
            return Notice(text=f"EC2: this spot instance is being {verb}", seconds_left=left)
        if self._get("events/recommendations/rebalance").status == 200:
            text = "EC2: this spot instance is at an elevated risk of interruption"
            return Notice(text=text, seconds_left=None, certain=False)
        return None

    def _get(self, key: str, timeout_seconds: float = ANSWER_SECONDS) -> Answer:
        for _ in range(2):
            if time.monotonic() >= self._token_until:
                self._fetch_token(timeout_seconds)
            headers = {"X-aws-ec2-metadata-token": self._token} if self._token else {}
            path = f"/latest/meta-data/{key}"
            answer = self.ask(path, headers=headers, timeout_seconds=timeout_seconds)
            if answer.status != 401:
                break
            self._token_until = 0.0  # the token has expired, whatever we thought of it
        return answer

    def _fetch_token(self, timeout_seconds: float) -> None:
        answer = self.ask(
            "/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)},
            timeout_seconds=timeout_seconds,
        )
        if answer.status not in (200, 403, 404, 405):
            raise OSError(f"EC2 gave no metadata token: status {answer.status}")
        self._token = answer.text if answer.status == 200 else ""
        self._token_until = time.monotonic() + TOKEN_SECONDS / 2
