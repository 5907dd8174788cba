"""`runner serve`: the report in a browser, for a store that no browser can read.

It only shows: GET and HEAD of one page, made from the records when it is asked for. It listens on
this machine alone unless told otherwise. A name in the Host header that is not this machine's is
refused, so that no page of another site can read it by a name that leads here (DNS rebinding).
"""

import argparse
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from runner.cli.common import add_store_option, open_queue, say
from runner.errors import RunnerError, SpecError
from runner.exit import Exit
from runner.queue.job import line
from runner.queue.queue import Queue, utc_now

LOOPBACK = "127.0.0.1"
PORT = 8642
FRESH_SECONDS = 10.0  #: a page this young is given again
SILENT_SECONDS = 10.0  #: that a browser may take for its request
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    add = parser.add_argument
    add("job", metavar="JOB", nargs="*", help="only these (default: all)")
    add("--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free")
    others = f"address or name to listen on (default: {LOOPBACK}, this machine alone)"
    add("--host", default=LOOPBACK, help=others)
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; the address goes to standard output."""
    queue, _ = open_queue(options)
    pages = Pages(queue, options.job)
    pages.page()  # what cannot be read is said before a browser asks
    try:
        server = Server((options.host, options.port), pages)
    except (OSError, OverflowError) as error:
        msg = f"--host {options.host} --port {options.port} can't be listened on: {error}."
        raise SpecError(f"{msg} Choose others, such as --port 0 for any that is free.") from None
    with server:
        if not _is_loopback(str(server.server_address[0])):
            say("Whoever reaches this machine can read the report: there is no password.")
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"http://{host}:{server.server_address[1]}/", flush=True)
        say("Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return Exit.DONE
    return Exit.DONE


class Pages:
    """The page of some jobs, made anew when it is asked for and no longer fresh."""

    def __init__(self, queue: Queue, names: list[str]) -> None:
        from runner.report.collect import Collector

        self._collector = Collector(queue)
        self._names = names
        self._lock = threading.Lock()  # many who ask get one page
        self._made_at = 0.0
        self._page = b""

    def page(self) -> bytes:
        """Return HTML; StoreError or NotFoundError where there is none."""
        from runner.report.page import render

        with self._lock:
            if not self._page or time.monotonic() - self._made_at > FRESH_SECONDS:
                report = self._collector.look(self._names, now=utc_now())
                html = render(report, live=True, drawn=False, closed="serve shows none").html
                self._page, self._made_at = html.encode(errors="replace"), time.monotonic()
            return self._page


class Server(ThreadingHTTPServer):
    """Listens on one address."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], pages: Pages) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.pages = pages
        self.names = {"localhost", socket.gethostname().lower(), address[0].lower()}
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless it is that a reader has gone away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this machine: by an address, or a name that it has."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or _is_address(name)


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of `/`; the library refuses all other methods."""

    server: Server
    server_version, sys_version = "runner", ""
    timeout = SILENT_SECONDS

    def do_GET(self) -> None:
        """Send the page."""
        if not self.server.is_own(self.headers.get("Host", "")):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"this is another machine\n")
        elif urlsplit(self.path).path != "/":
            self._send(HTTPStatus.NOT_FOUND, b"there is one page: /\n")
        else:
            try:
                self._send(HTTPStatus.OK, self.server.pages.page(), "text/html")
            except RunnerError as error:
                text = f"{line(str(error))}\n".encode(errors="replace")
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, text)

    do_HEAD = do_GET  # noqa: N815

    def _send(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: who looks is no news."""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ip_address(name).is_loopback
