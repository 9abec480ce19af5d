"""Answers as bytes: the stand-in writes its own heads, so that it can also write wrong ones.

aiohttp reads and frames the requests; its response classes are left aside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from aiohttp import web

Headers = Sequence[tuple[str, str]]

JSON = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def fields(self) -> Headers:
        """Its header fields but for the framing."""
        kind = (("Content-Type", self.content_type),) if self.content_type else ()
        return (*kind, *self.headers)


def json_answer(status: int, document: Any, *headers: tuple[str, str]) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, json.dumps(document).encode(), headers=headers)


class Written(web.StreamResponse):
    """Tells aiohttp that the response is on the wire already, and whether the connection may be used again."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._stay = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the next request may follow."""
        return self._stay

    async def prepare(self, request: web.BaseRequest) -> None:
        """The head was sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """The body was sent."""


def altered(headers: Headers, changes: dict[str, str | None] | None, cookies: Sequence[str] | None) -> Headers:
    """The fields with `changes` made (replace or add; None drops) and a Set-Cookie line for each cookie added."""
    changes = changes or {}
    names = {name.lower() for name in changes}
    kept = [(name, value) for name, value in headers if name.lower() not in names]
    added = [(name, value) for name, value in changes.items() if value is not None]
    return [*kept, *added, *(("Set-Cookie", cookie) for cookie in cookies or ())]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class Wire:
    """One request's connection. Writes raise `ConnectionError` when the client is gone."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._writer = request.writer
        self.keep_alive = request.keep_alive
        self.started = False

    async def head(self, status: int, headers: Headers) -> None:
        """Send the status line and the fields, with Date, Server and, if need be, Connection."""
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", f"Date: {formatdate(usegmt=True)}", "Server: Kestrel"]
        if not self.keep_alive:
            lines.append("Connection: close")
        elif self._request.version < (1, 1):
            lines.append("Connection: keep-alive")
        lines += [f"{name}: {value}" for name, value in headers]
        await self.write(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape"))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send these bytes, with back-pressure."""
        self.started = True
        await self._writer.write(data)

    async def send(self, answer: Answer, headers: Headers) -> None:
        """Send a whole answer with these fields (mostly `answer.fields`) and its framing."""
        bodiless = answer.status in (204, 304)
        framing = () if bodiless else (("Content-Length", str(len(answer.body))),)
        await self.head(answer.status, (*headers, *framing))
        if answer.body and self._request.method != "HEAD" and not bodiless:
            await self.write(answer.body)

    async def interim(self) -> None:
        """Send 100 Continue."""
        await self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def reset(self) -> None:
        """End the connection with a RST, once the client's side has what was written (at most 5 s later)."""
        transport = self._request.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._writer.drain()
                while transport.get_write_buffer_size() or _unacknowledged(sock):  # noqa: ASYNC110  # the kernel does not call
                    await asyncio.sleep(0.002)
        with contextlib.suppress(OSError):
            _linger_not(sock)
        transport.abort()
        self.keep_alive = False


def _linger_not(sock: Any) -> None:
    """Closing will send RST. On a duplicate, because event loops hand out a read-only view of their socket."""
    with socket.socket(fileno=os.dup(sock.fileno())) as real:
        real.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


if sys.platform == "win32":

    def _unacknowledged(sock: Any) -> int:
        return 0

else:
    import fcntl
    import termios

    def _unacknowledged(sock: Any) -> int:
        """Bytes in the kernel's send queue: a RST would throw them away."""
        try:
            return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
        except OSError:
            return 0
