"""HTTP responses, written byte by byte, so that the simulator can also send malformed ones.

aiohttp reads and frames the requests; its response classes are not used.
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

#: How long `ResponseWriter.reset` waits for the client to acknowledge data, in seconds.
_DRAIN_TIMEOUT = 5.0
_DRAIN_POLL = 0.002


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def fields(self) -> Headers:
        """The header fields without the framing fields."""
        kind = (("Content-Type", self.content_type),) if self.content_type else ()
        return (*kind, *self.headers)


def json_response(status: int, document: Any, *headers: tuple[str, str]) -> Response:
    """Return a response with a JSON body."""
    return Response(status, json.dumps(document).encode(), headers=headers)


class SentResponse(web.StreamResponse):
    """Tells aiohttp that the response is already sent.

    `keep_alive` says whether the connection can serve another request.
    """

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._reusable = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can serve another request."""
        return self._reusable

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the head is already sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the body is already sent."""


def with_changes(
    headers: Headers, changes: dict[str, str | None] | None, cookies: Sequence[str] | None
) -> Headers:
    """Return the fields with `changes` applied and one Set-Cookie field per cookie appended.

    A change replaces all fields of that name, or adds one; the value None removes them.
    """
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


class ResponseWriter:
    """Writes the response to one request.

    Its methods raise `ConnectionError` after the client has disconnected. `sent` is the number of
    bytes sent after the head.
    """

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._writer = request.writer
        self.keep_alive = request.keep_alive
        self.sent = 0

    async def write_head(self, status: int, headers: Headers) -> None:
        """Send the status line, Date, Server, Connection if needed, and these fields."""
        lines = [
            f"HTTP/1.1 {status} {_phrase(status)}",
            f"Date: {formatdate(usegmt=True)}",
            "Server: Kestrel",
        ]
        if not self.keep_alive:
            lines.append("Connection: close")
        elif self._request.version < (1, 1):
            lines.append("Connection: keep-alive")
        lines += [f"{name}: {value}" for name, value in headers]
        head = "\r\n".join(lines) + "\r\n\r\n"
        await self._writer.write(head.encode("utf-8", "surrogateescape"))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; wait while the transport's write buffer is full."""
        await self._writer.write(data)
        self.sent += len(data)

    async def write_response(self, response: Response, headers: Headers) -> None:
        """Send a complete response with these fields and the framing fields of its body.

        `headers` replaces `response.fields`; callers pass these with changes applied.
        """
        bodiless = response.status in (204, 304)
        framing = () if bodiless else (("Content-Length", str(len(response.body))),)
        await self.write_head(response.status, (*headers, *framing))
        if response.body and self._request.method != "HEAD" and not bodiless:
            await self.write(response.body)

    async def write_continue(self) -> None:
        """Send 100 Continue."""
        await self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def reset(self) -> None:
        """Close the connection with a TCP RST.

        Waits up to 5 seconds for the client to acknowledge what was written, because a RST
        discards unacknowledged data.
        """
        transport = self._request.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                await self._writer.drain()
                while transport.get_write_buffer_size() or _unacknowledged(sock):  # noqa: ASYNC110  # no event exists
                    await asyncio.sleep(_DRAIN_POLL)
        with contextlib.suppress(OSError):
            _reset_on_close(sock)
        transport.abort()
        self.keep_alive = False


def _reset_on_close(sock: Any) -> None:
    """Make closing the connection send a RST (SO_LINGER with timeout 0).

    The option is set on a duplicate, because event loops expose a read-only view of the socket.
    """
    with socket.socket(fileno=os.dup(sock.fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


if sys.platform == "win32":

    def _unacknowledged(sock: Any) -> int:
        return 0

else:
    import fcntl
    import termios

    def _unacknowledged(sock: Any) -> int:
        """Return the number of bytes in the kernel's send queue; 0 for a closed socket."""
        try:
            packed = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except OSError:
            return 0
        return int(struct.unpack("i", packed)[0])
