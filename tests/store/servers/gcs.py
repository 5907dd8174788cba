"""A GCS server that decides creates atomically: gcp-storage-emulator, with conditions added.

The emulator knows no `ifGenerationMatch` (32 of 32 racers win), answers one connection at a
time, and lists everything in one page. Added in front of it: the condition, checked under one
lock (for a resumable upload when it starts and again when it ends); threads; short pages; and
the answer to a cancelled upload, without which gcsfs retries for half a minute.

Run as a program it prints its port and serves until its standard input ends.
"""

import http.server
import io
import json
import sys
import threading
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.storage import Storage

PAGE = 50
BUCKET = "bucket"
OPTIONS = {"token": "anon", "project": "test"}


class ConditionNotMetError(Exception):
    """The object's generation is not the one that the request asked for."""


class ConditionalStorage(Storage):  # type: ignore[misc]
    """The emulator's storage; every write is checked against the condition of its request."""

    def __init__(self, *, honest: bool) -> None:
        super().__init__(use_memory_fs=True)
        self.honest = honest
        self.lock = threading.Lock()
        self.wanted: str | None = None  # of the request in progress, under the lock
        self._uploads: dict[str, str] = {}

    def check(self, bucket: str, name: str, wanted: str | None) -> None:
        if wanted is None or not self.honest:
            return
        try:
            found = str(self.get_file_obj(bucket, name)["generation"])
        except NotFound:
            found = "0"
        if found != wanted:
            raise ConditionNotMetError

    def create_file(
        self, bucket_name: str, file_name: str, content: bytes, file_obj: Any, file_id: Any = None
    ) -> Any:
        self.check(bucket_name, file_name, self._uploads.pop(file_id, self.wanted))
        return super().create_file(bucket_name, file_name, content, file_obj, file_id)

    def create_resumable_upload(self, bucket_name: str, file_name: str, file_obj: Any) -> Any:
        self.check(bucket_name, file_name, self.wanted)
        upload = super().create_resumable_upload(bucket_name, file_name, file_obj)
        if self.wanted is not None:
            self._uploads[upload] = self.wanted
        return upload


class Handler(emulator.RequestHandler):  # type: ignore[misc]
    """One request at a time, with conditions and pages."""

    wfile: Any
    protocol_version = "HTTP/1.0"
    timeout = 60

    def do_GET(self) -> None:  # noqa: N802
        url = urlparse(self.path)
        if url.path.endswith("/o") and "/b/" in url.path:
            self._page(parse_qs(url.query))
        else:
            self._serve("GET")

    def do_POST(self) -> None:  # noqa: N802
        self._serve("POST")

    def do_PUT(self) -> None:  # noqa: N802
        self._serve("PUT")

    def do_DELETE(self) -> None:  # noqa: N802
        url = urlparse(self.path)
        if url.path.startswith("/upload/"):
            self._reply(499, b"")
        else:
            self._serve("DELETE")

    def _serve(self, method: str) -> None:
        url = urlparse(self.path)
        with self.storage.lock:
            self.storage.wanted = parse_qs(url.query).get("ifGenerationMatch", [None])[0]
            try:
                if method == "DELETE" and "/o/" in url.path:
                    bucket, _, name = url.path.split("/b/")[1].partition("/o/")
                    self.storage.check(bucket, unquote(name), self.storage.wanted)
                emulator.Router(self).handle(method)
            except ConditionNotMetError:
                error = {"error": {"code": 412, "message": "conditionNotMet"}}
                self._reply(412, json.dumps(error).encode())

    def _page(self, query: dict[str, list[str]]) -> None:
        client: Any = self.wfile
        reply = io.BytesIO()
        self.wfile = reply
        try:
            self._serve("GET")
        finally:
            self.wfile = client
        head, _, body = reply.getvalue().partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status == 200:
            body = json.dumps(_cut(json.loads(body), query.get("pageToken", [""])[0])).encode()
        self._reply(status, body)

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _cut(listing: dict[str, Any], token: str) -> dict[str, Any]:
    """Return the page that starts after `token`, of objects and folders in one order."""
    names = sorted([*(o["name"] for o in listing.get("items", [])), *listing.get("prefixes", [])])
    shown = [name for name in names if name > token][:PAGE]
    page = {
        **listing,
        "items": [o for o in listing.get("items", []) if o["name"] in set(shown)],
        "prefixes": [p for p in listing.get("prefixes", []) if p in set(shown)],
    }
    if shown and shown[-1] != names[-1]:
        page["nextPageToken"] = shown[-1]
    return page


class Server(http.server.ThreadingHTTPServer):
    """Takes many connections at once."""

    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up: gcsfs cancels the slower of two requests."""


def main(*flags: str) -> None:
    """Serve on a free port of the loopback interface, with one bucket made."""
    storage = ConditionalStorage(honest="--dishonest" not in flags)
    create_bucket(BUCKET, storage)
    server = Server(("127.0.0.1", 0), partial(Handler, storage))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
