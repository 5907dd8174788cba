"""A machine's metadata service on this machine: GCE's, EC2's and Azure's interfaces in one.

It is as strict as the real ones are: without Google's header, Amazon's token or Azure's header
there is no answer. GCE's `wait_for_change` holds a request until the value differs.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN_TTL = "x-aws-ec2-metadata-token-ttl-seconds"

#: what may be announced: kind → seconds until the end; more than a minute is no reason to stop yet
NOTICES = {
    "gce-preempted": 30,
    "gce-maintenance": 60,
    "ec2-spot": 60,
    "azure-preempt": 30,
    "azure-terminate": 60,
    "azure-redeploy": 60,
    "azure-reboot": 60,
}


class Metadata:
    """What the service says now."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.gce = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.ec2: dict[str, str] = {"instance-id": "i-0123456789abcdef0"}
        self.events: list[dict[str, Any]] = []
        self.token = "token-1"
        self.requests: list[str] = []
        self.announced_at = 0.0
        self.url = ""

    @property
    def host(self) -> str:
        """Address and port."""
        return self.url.removeprefix("http://")

    def environment(self, source: str) -> dict[str, str]:
        """Variables that lead `runner` here, and nowhere else."""
        off = {
            "NO_GCE_CHECK": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNNER_AZURE_METADATA_HOST": "127.0.0.1:9",  # nobody listens
            "RUNNER_NOTICES": "on",
        }
        own = {
            "gce": {"GCE_METADATA_HOST": self.host, "NO_GCE_CHECK": ""},
            "ec2": {"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url, "AWS_EC2_METADATA_DISABLED": ""},
            "azure": {"RUNNER_AZURE_METADATA_HOST": self.host},
        }
        return {**off, **own[source.split("-")[0]]}

    def announce(self, kind: str, seconds: float | None = None) -> None:
        """Let a notice begin."""
        seconds = NOTICES[kind] if seconds is None else seconds
        ends = datetime.now(UTC) + timedelta(seconds=seconds)
        with self.changed:
            self.announced_at = time.time()
            if kind == "gce-preempted":
                self.gce["preempted"] = "TRUE"
            elif kind == "gce-maintenance":
                self.gce["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
            elif kind == "ec2-spot":
                action = {"action": "terminate", "time": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
                self.ec2["spot/instance-action"] = json.dumps(action)
            else:
                self.events.append(event(kind.removeprefix("azure-").capitalize(), ends))
            self.changed.notify_all()


def event(kind: str, ends: datetime | None, *, machine: str = "trainer_3") -> dict[str, Any]:
    """One of Azure's scheduled events; without an end it has begun."""
    return {
        "EventId": "602d9444-d2cd-49c7-8624-8643e7171297",
        "EventType": kind,
        "ResourceType": "VirtualMachine",
        "Resources": [machine, "trainer_9"],
        "EventStatus": "Scheduled" if ends else "Started",
        "NotBefore": format_datetime(ends, usegmt=True) if ends else "",
        "Description": "",
        "EventSource": "Platform",
        "DurationInSeconds": -1,
    }


@contextmanager
def serving() -> Iterator[Metadata]:
    """Serve until the block ends."""
    state = Metadata()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        with state.changed:
            state.changed.notify_all()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Metadata

    def do_PUT(self) -> None:
        self.state.requests.append(f"PUT {self.path}")
        known = self.path == "/latest/api/token" and self.headers.get(TOKEN_TTL, "").isdigit()
        self._answer(200 if known else 400, self.state.token if known else "")

    def do_POST(self) -> None:
        """Not part of any interface: the process under test lets its own notice begin."""
        self.state.announce(self.path.removeprefix("/announce/"))
        self._answer(200, "")

    def do_GET(self) -> None:
        self.state.requests.append(f"GET {self.path}")
        path = urlsplit(self.path).path
        if path.startswith("/latest/meta-data/"):
            return self._ec2(path.removeprefix("/latest/meta-data/"))
        if path.startswith("/metadata/"):
            return self._azure(path)
        return self._gce(path)

    def _gce(self, path: str) -> None:
        if self.headers.get("Metadata-Flavor") != "Google":
            return self._answer(403, "")
        flavor = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
        key = path.removeprefix("/computeMetadata/v1/instance/")
        if key not in self.state.gce:
            return self._answer(200 if path == "/" else 404, "", flavor)
        query = parse_qs(urlsplit(self.path).query)
        with self.state.changed:
            if query.get("wait_for_change") == ["true"]:
                known = query["last_etag"][0]
                seconds = float(query["timeout_sec"][0])
                self.state.changed.wait_for(lambda: self._etag(key) != known, seconds)
            value, etag = self.state.gce[key], self._etag(key)
        return self._answer(200, value, {**flavor, "ETag": etag})

    def _etag(self, key: str) -> str:
        return self.state.gce[key].encode().hex()[:16]

    def _ec2(self, key: str) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != self.state.token:
            return self._answer(401, "")
        found = self.state.ec2.get(key)
        return self._answer(404 if found is None else 200, found or "")

    def _azure(self, path: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if self.headers.get("Metadata") != "true" or "api-version" not in query:
            return self._answer(400, "")
        if path == "/metadata/instance/compute/name" and query.get("format") == ["text"]:
            return self._answer(200, "trainer_3")
        if path == "/metadata/scheduledevents":
            document = {"DocumentIncarnation": 1, "Events": self.state.events}
            return self._answer(200, json.dumps(document))
        return self._answer(404, "")

    def _answer(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        with suppress(ConnectionError):  # who asked may have ended
            self.end_headers()
            self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass
