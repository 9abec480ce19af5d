"""A response of VB365 that is written as it is (CONTRACT §3, §12)."""

from __future__ import annotations

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from proxy.api.raw_response import RawResponse
from proxy.core.http.fields import end_to_end
from proxy.core.http.outbound import CLOSE
from proxy.ports import WholeResponse

#: Written by the proxy, which knows the length of the body.
_FRAMING = frozenset({b"content-length"})
#: RFC 9110 §8.6: no Content-Length and no body with these.
_BODILESS = (204, 304)


class Verbatim(RawResponse):
    """Writes status, reason, the end-to-end fields and the body of `response`.

    It adds only the length, and `Connection: close` if the connection ends with the response.
    """

    def __init__(self, response: WholeResponse) -> None:
        super().__init__(status=response.status, reason="")
        self._response = response

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the whole response. Idempotent."""
        if self._writer is None:
            self._writer = request.writer
            if not request.keep_alive or request.version < HttpVersion11:
                self._closes = True
            await self._writer.write(self._bytes(request.method))
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Wait until the client has read enough of it."""
        if self._writer is not None:
            await self._writer.drain()

    def _bytes(self, method: str) -> bytes:
        response = self._response
        fields = [
            field for field in end_to_end(response.fields) if field[0].lower() not in _FRAMING
        ]
        lines = b"".join([b"%b: %b\r\n" % field for field in fields])
        bodiless = response.status in _BODILESS
        length = b"" if bodiless else b"Content-Length: %d\r\n" % len(response.body)
        close = CLOSE if self._closes else b""
        head = b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (
            response.status,
            response.reason,
            lines,
            length,
            close,
        )
        return head if method == "HEAD" or bodiless else head + response.body
