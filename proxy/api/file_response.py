"""The response that carries a file: field values are sent to the byte (CONTRACT §6)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import formatdate

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from proxy.api.raw_response import RawResponse

_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class FileResponse(RawResponse):
    """A streamed response of `length` bytes. Field values are latin-1 text of the bytes to send."""

    def __init__(self, status: int, fields: Iterable[tuple[str, str]], length: int) -> None:
        super().__init__(status=status)
        self._fields = [*fields, ("Content-Length", str(length))]
        self.length = length
        self._ended = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the head. Idempotent. Raises ValueError for a value with a control character."""
        if self._writer is None:
            self._closes = self._closes or not request.keep_alive
            head = self._head(request)
            self._writer = request.writer
            await self._writer.write(head)
            # from here on the writer counts the body; HEAD has none
            self._writer.length = None if request.method == "HEAD" else self.length
        return self._writer

    def _head(self, request: web.BaseRequest) -> bytes:
        connection = []
        if self._closes and request.version == HttpVersion11:
            connection = [("Connection", "close")]
        elif not self._closes and request.version == HttpVersion10:
            connection = [("Connection", "keep-alive")]
        fields = [*self._fields, ("Date", formatdate(usegmt=True)), *connection]
        lines = [
            f"HTTP/{request.version.major}.{request.version.minor} {self.status} {self.reason}",
            *(f"{name}: {value}" for name, value in fields),
        ]
        if _CONTROLS.search("".join(lines)):
            raise ValueError("a field value holds a control character")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def note_sent(self, count: int) -> None:
        """Note that so many bytes of the body were sent without the writer."""
        if self._writer is not None and self._writer.length is not None:
            self._writer.length -= count

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes of the body. Waits for a client that reads slowly."""
        if self._writer is None or self._ended:
            raise RuntimeError("write() before prepare() or after write_eof()")
        await self._writer.write(data)

    async def write_eof(self, data: bytes = b"") -> None:
        """Finish. Idempotent."""
        if self._writer is not None and not self._ended:
            self._ended = True
            await self._writer.write_eof(data)
