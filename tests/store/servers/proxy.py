"""Between a client and its server: loses replies, fails, cuts, stalls, as a rule says.

    with Proxy(server.port, lambda request: LOSE if request.creates else None) as proxy:
        store = server.store("runs", port=proxy.port)

The server acts before its reply is lost, replaced or cut; a refused or reset request never
reaches it. HTTP/1.1 without TLS, on the loopback interface.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

_LIMIT = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to a request."""

    acts: bool = True  #: the server gets the request
    status: int = 0  #: answered instead of the server's reply; 0: no answer, the line breaks
    body: bytes = b""
    cut: bool = False  #: half of the server's reply arrives, then the line breaks
    stall_seconds: float = 0.0  #: the server's reply is held back, then arrives


LOSE = Fault()
RESET = Fault(acts=False)
CUT = Fault(cut=True)


def answer(status: int, body: bytes = b"") -> Fault:
    """Answer by itself; the server sees nothing."""
    return Fault(acts=False, status=status, body=body)


def answer_after(status: int) -> Fault:
    """Let the server act, then answer something else."""
    return Fault(status=status)


def stall(seconds: float) -> Fault:
    """Hold the reply back."""
    return Fault(stall_seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as the rule sees it."""

    method: str
    path: str
    number: int  #: from 1, of those with this method and path
    creates: bool  #: it carries the condition "only if absent"


Rule = Callable[[Request], Fault | None]


def sometimes(seed: int, share: float, *faults: Fault) -> Rule:
    """Return a rule that gives a share of all requests one of the faults."""
    generator, lock = random.Random(seed), threading.Lock()

    def rule(_request: Request) -> Fault | None:
        with lock:
            return generator.choice(faults) if generator.random() < share else None

    return rule


def first(times: int, fault: Fault, *, method: str = "", creates: bool | None = None) -> Rule:
    """Return a rule that gives the first requests of each path and method the fault."""

    def rule(request: Request) -> Fault | None:
        fits = request.number <= times and request.method in (method or request.method)
        return fault if fits and creates in (None, request.creates) else None

    return rule


class Proxy:
    """Passes requests on to a server at `upstream`, except as `rule` says."""

    def __init__(self, upstream: int, rule: Rule = lambda _request: None) -> None:
        self.upstream = upstream
        self.rule = rule  #: may be set at any time
        self.seen: list[Request] = []
        self.faults: Counter[Fault] = Counter()
        self.port = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        listening = asyncio.start_server(self._client, "127.0.0.1", 0, limit=_LIMIT, backlog=256)
        server = self._loop.run_until_complete(listening)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        open_lines = asyncio.all_tasks(self._loop)
        for line in open_lines:
            line.cancel()
        self._loop.run_until_complete(asyncio.gather(*open_lines, return_exceptions=True))

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether the connection may serve another."""
        head = await _Head.read(reader)
        if head.fields.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await head.body(reader)
        fault = self._judge(head)
        if fault is not None and not fault.acts:
            return await _replace(writer, fault, head)
        reply = await self._forward(head, body)
        if fault is None or fault.stall_seconds:
            await asyncio.sleep(fault.stall_seconds if fault else 0)
            writer.write(reply)
            await writer.drain()
            return b"\r\nconnection: close" not in reply[:2000].lower()
        if fault.cut:
            writer.write(reply[: max(1, len(reply) - len(reply) // 3 - 1)])
            await writer.drain()
            return _break(writer)
        return await _replace(writer, fault, head)

    def _judge(self, head: "_Head") -> Fault | None:
        method, path = head.start.split(" ")[:2]
        self._counts[method, path] += 1
        creates = "if-none-match" in head.fields or "ifGenerationMatch=0" in path
        number = self._counts[method, path]
        request = Request(method=method, path=path, number=number, creates=creates)
        self.seen.append(request)
        fault = self.rule(request)
        if fault is not None:
            self.faults[fault] += 1
        return fault

    async def _forward(self, head: "_Head", body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream, limit=_LIMIT)
        lines = head.raw.replace(b"Expect: 100-continue\r\n", b"")
        writer.write(lines.replace(b"expect: 100-continue\r\n", b"") + body)
        await writer.drain()
        reply = await _Head.read(reader)
        while reply.start.split(" ")[1] == "100":
            reply = await _Head.read(reader)
        content = await reply.body(reader, to=head.start.split(" ")[0])
        writer.close()
        return reply.raw + content


@dataclass(frozen=True, kw_only=True)
class _Head:
    raw: bytes
    start: str
    fields: dict[str, str]

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> "_Head":
        raw = await reader.readuntil(b"\r\n\r\n")
        start, *lines = raw.decode("latin1").split("\r\n")
        pairs = (line.partition(":") for line in lines if ":" in line)
        return cls(raw=raw, start=start, fields={k.strip().lower(): v.strip() for k, _, v in pairs})

    async def body(self, reader: asyncio.StreamReader, to: str = "") -> bytes:
        """Read the body; `to` is the method that a reply answers."""
        if to == "HEAD" or (to and self.start.split(" ")[1] in ("204", "304")):
            return b""
        if self.fields.get("transfer-encoding", "").lower() == "chunked":
            return await _chunks(reader)
        if "content-length" in self.fields:
            return await reader.readexactly(int(self.fields["content-length"]))
        return await reader.read() if to else b""


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return body


async def _replace(writer: asyncio.StreamWriter, fault: Fault, request: _Head) -> bool:
    if not fault.status:
        return _break(writer)
    head = f"HTTP/1.1 {fault.status} Fault\r\nContent-Length: {len(fault.body)}\r\n\r\n"
    writer.write(head.encode() + (b"" if request.start.startswith("HEAD") else fault.body))
    await writer.drain()
    return True


def _break(writer: asyncio.StreamWriter) -> bool:
    """Reset the connection, so that the client sees an error and not an end."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
