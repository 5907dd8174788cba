"""Servers on the loopback that take messages: for mail and for the web."""

import contextlib
import email
import email.policy
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Web:
    """Remembers what `json://` posts; may be away for a while."""

    def __init__(self) -> None:
        self.port = free_port()
        self.got: list[dict[str, Any]] = []
        self.url = f"json://ann:{PASSWORDS[0]}@127.0.0.1:{self.port}/hook"

    @property
    def titles(self) -> list[str]:
        return sorted(message["title"] for message in self.got)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield
            finally:
                server.shutdown()


class Mail:
    """Remembers mails of those who log in with the right password."""

    def __init__(self) -> None:
        self.port = free_port()
        self.got: list[Any] = []
        self.url = (
            f"mailto://bob:{PASSWORDS[1]}@127.0.0.1:{self.port}"
            "?from=runner@example.org&to=carol@example.org"
        )

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.got.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"

    def log_in(self, _server: Any, _session: Any, _envelope: Any, _how: str, who: Any) -> Any:
        from aiosmtpd.smtp import AuthResult

        right = (who.login, who.password) == (b"bob", PASSWORDS[1].encode())
        return AuthResult(success=right, handled=False)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        from aiosmtpd.controller import Controller

        server = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            authenticator=self.log_in,
            auth_required=True,
            auth_require_tls=False,
        )
        server.start()
        try:
            yield
        finally:
            server.stop()


PASSWORDS = ("geheim-of-the-web", "geheim-of-the-mail")
