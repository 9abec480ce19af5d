"""HTTP/1.x on the wire: one end of a connection, the messages read from it, and their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from proxy.net.sockets import reset

#: Bounds every wait of these tests, in seconds.
LIMIT = 20

Fields = list[tuple[str, str]]
Given = dict[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Message:
    """A request (`first` is its request line) or a response (`first` is its status line).

    `head` has the bytes of the head, with the empty line; `body` is decoded if it was chunked.
    """

    first: str
    fields: Fields
    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def reason(self) -> str:
        return self.first.split(" ", 2)[2]

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    @property
    def names(self) -> set[str]:
        return {name.lower() for name, _ in self.fields}

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def __contains__(self, name: str) -> bool:
        return name.lower() in self.names

    def __getitem__(self, name: str) -> str:
        """The value of a field that occurs once."""
        values = self.all(name)
        assert len(values) == 1, f"{name}: {values} in {self}"
        return values[0]

    def get(self, name: str) -> str | None:
        return self[name] if name in self else None  # noqa: SIM401  # `self.get` is this very method

    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """One end of a TCP connection. Every wait is bounded by `LIMIT`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(
        cls,
        url: str,
        *,
        limit: int = 1 << 21,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int = 0,
    ) -> Peer:
        """Connect to the host and port of `url`; with `tls` the server's name is localhost.

        `limit` bounds what is read ahead; `receive_buffer` bounds what the system keeps for it.
        """
        parts = urlsplit(url)
        where: dict[str, Any] = {"host": parts.hostname, "port": parts.port}
        if receive_buffer:
            where = {"sock": await _connect(parts.hostname, parts.port, receive_buffer)}
        name = "localhost" if tls else None
        opened = asyncio.open_connection(**where, limit=limit, ssl=tls, server_hostname=name)
        return cls(*await asyncio.wait_for(opened, LIMIT))

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():  # uvloop would raise RuntimeError
            raise ConnectionResetError
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), LIMIT)

    async def until(self, mark: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(mark), LIMIT)

    async def exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), LIMIT)

    async def some(self) -> bytes:
        """Read what has come, at least a byte. Raises `EOFError` at the end."""
        data = await asyncio.wait_for(self.reader.read(1 << 16), LIMIT)
        if not data:
            raise EOFError
        return data

    async def rest(self) -> bytes:
        """Read everything up to a clean end. Raises `ConnectionError` if there is none."""
        return await asyncio.wait_for(self.reader.read(), LIMIT)

    async def closed(self) -> bool:
        """Wait for the other side to end the connection, cleanly or not."""
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self.reader.read(1 << 16), LIMIT):
                pass
        return True

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def response(self) -> tuple[bytes, bytes]:
        """Read one response and return its head and its body."""
        message = await self.message()
        return message.head, message.body

    async def message(self, *, bodiless: bool = False, ends: bool = False) -> Message:
        """Read one message. `bodiless`: it responds to HEAD. `ends`: without a length its body
        ends with the connection.
        """
        raw = await self.head()
        first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        fields = [
            (name, value.strip(" ")) for name, _, value in (line.partition(":") for line in lines)
        ]
        message = Message(first, fields, raw, b"")
        if bodiless or (first.startswith("HTTP") and message.status in (100, 204, 304)):
            return message
        return Message(first, fields, raw, await self._body(message, ends=ends))

    async def _body(self, message: Message, *, ends: bool) -> bytes:
        if "Transfer-Encoding" in message:
            body = b""
            while size := int((await self.until(b"\r\n")).partition(b";")[0], 16):
                body += await self.exactly(size)
                await self.until(b"\r\n")
            await self.until(b"\r\n")
            return body
        if "Content-Length" in message:
            return await self.exactly(int(message["Content-Length"]))
        return await self.rest() if ends else b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await asyncio.wait_for(self.writer.wait_closed(), LIMIT)

    def abort(self) -> None:
        with contextlib.suppress(AttributeError):  # asyncio of Python 3.11.2: TLS, closed before
            self.writer.transport.abort()

    def reset(self) -> None:
        reset(cast("asyncio.Transport", self.writer.transport))


async def _connect(host: str | None, port: int | None, receive_buffer: int) -> socket.socket:
    """A connected socket. Only before it connects does a small buffer bound the TCP window."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    try:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.sock_connect(sock, (host, port)), LIMIT)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def connected(port: int, **how: Any) -> AsyncIterator[Peer]:
    """A client of what listens on that port of loopback; `how` is as in `Peer.to`."""
    peer = await Peer.to(f"//127.0.0.1:{port}", **how)
    try:
        yield peer
    finally:
        peer.abort()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(peer.writer.wait_closed(), LIMIT)


def request_bytes(method: str, target: str, fields: Given, body: bytes | None, host: str) -> bytes:
    """A request; Host and Content-Length are added unless `fields` has them."""
    given = list(fields.items()) if isinstance(fields, dict) else list(fields)
    names = {name.lower() for name, _ in given}
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in given]
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def raw(
    status: str, fields: Iterable[str] = (), body: bytes = b"", *, length: bool = True
) -> bytes:
    """A response; `status` is like "200 OK", `fields` are whole lines."""
    lines = [f"HTTP/1.1 {status}", *fields, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def ask(
    url: str, method: str, target: str, fields: Given = (), body: bytes | None = None
) -> Message:
    """Send one request on a new connection and return its response."""
    peer = await Peer.to(url)
    try:
        await peer.send(request_bytes(method, target, fields, body, urlsplit(url).netloc))
        return await peer.message(bodiless=method == "HEAD", ends=True)
    finally:
        peer.abort()


async def eventually(fact: Callable[[], bool]) -> None:
    """Let the loop run until `fact` holds."""
    async with asyncio.timeout(LIMIT):
        while not fact():  # noqa: ASYNC110  # the facts are counters, without events
            await asyncio.sleep(0.001)
