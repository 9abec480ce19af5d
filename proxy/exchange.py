"""What handlers of ours see of the front door: the true head, its decision, and an answer given
byte for byte.
"""

from __future__ import annotations

import re
from typing import cast

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from proxy.core.http.fields import CLOSE, end_to_end
from proxy.core.http.heads import Head
from proxy.core.routing import Decision
from proxy.ports import Fields

#: Fields that the front door sets itself on an answer whose body is given whole.
_FRAMING = frozenset({b"content-length"})
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: RFC 9110 §8.6: no Content-Length with these.
_BODILESS = (204, 304)


def head_of(request: web.BaseRequest) -> Head:
    """The request's head as the client sent it; aiohttp itself is given a plain stand-in for it."""
    return cast(Head, _of(request, "head"))


def decision_of(request: web.BaseRequest) -> Decision:
    """What `core.door` decided about the request."""
    return cast(Decision, _of(request, "decision"))


def _of(request: web.BaseRequest, name: str) -> object:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    return transport.get_extra_info(name)


class Verbatim(web.StreamResponse):
    """An answer written as it is: `reason`, the end-to-end ones of `fields`, and the whole `body`.

    Nothing is added but its length, and `Connection: close` when the connection ends with it
    (CONTRACT §3, §12).
    """

    def __init__(self, status: int, reason: bytes, fields: Fields, body: bytes) -> None:
        super().__init__(status=status, reason="")
        self._verbatim = (reason, fields, body)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it. Called by the server."""
        if self._payload_writer is None and not self._eof_sent:
            if self._keep_alive is None:
                self._keep_alive = request.keep_alive and request.version >= HttpVersion11
            self._payload_writer = request.writer
            await request.writer.write(self._bytes(request.method))
        return self._payload_writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write. Called by the server."""
        if not self._eof_sent and self._payload_writer is not None:
            await self._payload_writer.drain()
            self._eof_sent = True
            self._payload_writer = None

    def _bytes(self, method: str) -> bytes:
        reason, fields, body = self._verbatim
        keep = [field for field in end_to_end(fields) if field[0].lower() not in _FRAMING]
        lines = b"".join([b"%b: %b\r\n" % field for field in keep])
        length = b"" if self.status in _BODILESS else b"Content-Length: %d\r\n" % len(body)
        close = b"" if self._keep_alive else CLOSE
        head = b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (self.status, reason, lines, length, close)
        return head if method == "HEAD" or self.status in _BODILESS else head + body


class ExactHead(web.StreamResponse):
    """A streamed answer whose field values are latin-1 text of the bytes to send.

    aiohttp writes them as UTF-8, which changes a value of VB365 that is handed on (CONTRACT §6
    Content-Type).
    """

    async def _write_headers(self) -> None:
        """Called by `prepare` in place of aiohttp's own."""
        request, writer = self._req, self._payload_writer
        assert request is not None  # noqa: S101  # aiohttp sets both first
        assert writer is not None  # noqa: S101
        major, minor = request.version
        lines = [
            f"HTTP/{major}.{minor} {self.status} {self.reason}",
            *(f"{k}: {v}" for k, v in self.headers.items()),
        ]
        if _CONTROLS.search("".join(lines)):
            raise ValueError("a field value holds a control character")
        # the head is not counted as part of the announced body
        length, writer.length = writer.length, None
        await writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        writer.length = length
