"""A client that shows an answer as it stood on the wire, and an upstream that answers with given
bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

#: Bounds every wait of these tests, in seconds.
LIMIT = 20

Fields = list[tuple[str, str]]
Given = dict[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Message:
    """One answer (`first` is its status line) or one request (`first` is its request line)."""

    first: str
    fields: Fields
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


class Wire:
    """One connection, over which messages are read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, url: str) -> Wire:
        parts = urlsplit(url)
        opened = asyncio.open_connection(parts.hostname, parts.port, limit=1 << 21)
        return cls(*await asyncio.wait_for(opened, LIMIT))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), LIMIT)

    async def message(self, *, bodiless: bool = False, ends: bool = False) -> Message:
        """The next message. `bodiless`: of HEAD; `ends`: without a length, the end of the
        connection ends it.
        """
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LIMIT)).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = [
            (name, value.strip(" ")) for name, _, value in (line.partition(":") for line in lines)
        ]
        message = Message(first, fields, b"")
        if bodiless or (first.startswith("HTTP") and message.status in (100, 204, 304)):
            return message
        return Message(first, fields, await self._body(message, ends))

    async def _body(self, message: Message, ends: bool) -> bytes:
        if "Transfer-Encoding" in message:
            body = b""
            while size := int((await self._line()).partition(b";")[0], 16):
                body += await self._exactly(size)
                await self._line()
            await self._line()
            return body
        if "Content-Length" in message:
            return await self._exactly(int(message["Content-Length"]))
        return await asyncio.wait_for(self.reader.read(), LIMIT) if ends else b""

    async def _line(self) -> bytes:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n"), LIMIT))[:-2]

    async def _exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), LIMIT)

    def close(self) -> None:
        self.writer.transport.abort()


def request_bytes(method: str, target: str, fields: Given, body: bytes | None, host: str) -> bytes:
    given = list(fields.items()) if isinstance(fields, dict) else list(fields)
    names = {name.lower() for name, _ in given}
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in given]
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


async def ask(
    url: str, method: str, target: str, fields: Given = (), body: bytes | None = None
) -> Message:
    """One request on a connection of its own, one answer."""
    wire = await Wire.to(url)
    try:
        await wire.send(request_bytes(method, target, fields, body, urlsplit(url).netloc))
        return await wire.message(bodiless=method == "HEAD", ends=True)
    finally:
        wire.close()


def raw(
    status: str, fields: Iterable[str] = (), body: bytes = b"", *, length: bool = True
) -> bytes:
    """An answer in bytes: `status` like "200 OK", `fields` as whole lines."""
    lines = [f"HTTP/1.1 {status}", *fields, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


#: Answers a request; None closes the connection without a word.
Script = Callable[[Message], Awaitable[bytes | None]]


class Scripted:
    """An upstream whose every byte the test writes. `requests` has what came, oldest first."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Message] = []
        self.errors: list[BaseException] = []
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(Wire(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, wire: Wire) -> None:
        try:
            while True:
                message = await wire.message()
                self.requests.append(message)
                response = await self.script(message)
                if response is None:
                    break
                await wire.send(response)
                if b"\r\nConnection: close\r\n" in response:
                    wire.writer.write_eof()
                    break
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        except Exception as why:  # noqa: BLE001  # shown when the upstream stops
            self.errors.append(why)
        finally:
            wire.writer.close()

    def posts(self) -> list[Message]:
        return [request for request in self.requests if request.method == "POST"]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Scripted]:
        server = await asyncio.start_server(self, "127.0.0.1", 0, limit=1 << 21)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.wait_for(server.wait_closed(), LIMIT)
        assert not self.errors, self.errors
