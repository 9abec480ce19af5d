"""The response that carries a file: field values are sent to the byte (CONTRACT §6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class FileResponse(web.StreamResponse):
    """A streamed response of `length` bytes. Field values are latin-1 text of the bytes to send.

    aiohttp would write them as UTF-8, which changes a Content-Type of VB365 that is not ASCII. Only
    the public interface of `web.StreamResponse` is overridden.
    """

    def __init__(self, status: int, fields: Iterable[tuple[str, str]], length: int) -> None:
        super().__init__(status=status)
        self._fields = [*fields, ("Content-Length", str(length))]
        self._length = length
        self._writer: AbstractStreamWriter | None = None
        self._ended = False
        self._closes = False

    @property
    def prepared(self) -> bool:
        """True once the head is written."""
        return self._writer is not None

    @property
    def keep_alive(self) -> bool:
        """Whether the connection serves another request afterwards."""
        return not self._closes

    def force_close(self) -> None:
        """Close the connection after this response."""
        self._closes = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the head. Idempotent. Raises ValueError for a value with a control character."""
        if self._writer is None:
            self._closes = self._closes or not request.keep_alive
            head = self._head(request)
            self._writer = request.writer
            await self._writer.write(head)
            # from here on the writer counts the body; HEAD has none
            self._writer.length = None if request.method == "HEAD" else self._length
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

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes of the body, waiting for a client that reads slowly."""
        if self._writer is None or self._ended:
            raise RuntimeError("write() outside of prepare() and write_eof()")
        await self._writer.write(data)

    async def write_eof(self, data: bytes = b"") -> None:
        """Finish. Idempotent."""
        if self._writer is not None and not self._ended:
            self._ended = True
            await self._writer.write_eof(data)


@contextmanager
def sent_before_more(request: web.BaseRequest) -> Iterator[None]:
    """Within the block `request.writer.drain()` waits until the transport has sent everything.

    Else a client that takes nothing keeps 64 KiB more in memory, and 512 KiB on TLS (the defaults
    of asyncio and uvloop). The TLS layer counts what it has encrypted; below it the socket's
    transport keeps another 64 KiB.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    # not 0: the TLS of both loops takes an empty buffer to have reached that
    transport.set_write_buffer_limits(high=1, low=0)
    try:
        yield
    finally:
        transport.set_write_buffer_limits()
