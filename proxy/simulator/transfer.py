"""Delivering a file: ranges, framing, and everything that may go wrong on the way."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from proxy.simulator.content import CHUNK, Content
from proxy.simulator.faults import Effects
from proxy.simulator.wire import Headers, Wire, altered


@dataclass(slots=True)
class Delivery:
    """One export request: where its body began, how many bytes of it went out, how it ended.

    `outcome`: open, complete, refused (not a file), cut (by a fault or a stopped session), disconnected.
    """

    path: str
    status: int | None = None
    start: int = 0
    sent: int = 0
    outcome: str = "open"


class Cut(Exception):
    """The body ends here."""


UNSATISFIABLE = (-1, -1)


def byte_range(value: str | None, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) of a single byte range; None for anything else, which is ignored (RFC 9110 §14.2)."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", value.strip()) if value else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return (max(0, size - int(found[2])), size) if int(found[2]) and size else UNSATISFIABLE
    start, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < start:
        return None
    return (start, min(last + 1, size)) if start < size else UNSATISFIABLE


def if_range(value: str | None, etag: str | None) -> bool:
    """True if the range counts: without a condition, or if it is the strong ETag of the file (RFC 9110 §13.1.5)."""
    return value is None or (value == etag and value.startswith('"'))


@dataclass(slots=True)
class Transfer:
    """The sending of `content` from `delivery.start` to `stop`, named `name`, at `rate` bytes per second.

    `alive` tells whether the session still works, `stop_session` stops it, `released` waits for the release of a
    stall that has no end of its own.
    """

    wire: Wire
    delivery: Delivery
    content: Content
    name: str
    stop: int
    fx: Effects
    rate: float | None
    alive: Callable[[], bool]
    stop_session: Callable[[], None]
    released: Callable[[], Awaitable[None]]
    framing: str = field(init=False)

    def __post_init__(self) -> None:
        """A compressed body has no length that could be announced."""
        self.framing = self.fx.framing or ("chunked" if self.fx.gzip or self.fx.unterminated else "length")

    async def run(self) -> None:
        """Head, body, end. Raises `Cut`, and `ConnectionError` when the client is gone."""
        fx = self.fx
        if self.framing == "close" or fx.lie or fx.unterminated:
            self.wire.keep_alive = False
        await self.wire.head(self.delivery.status or 200, altered(self._fields(), fx.headers, fx.set_cookies))
        for piece in self._pieces():
            await self._meet(self.delivery.sent)
            await self._write(piece)
        await self._meet(self.delivery.sent)
        if fx.unterminated:
            raise Cut
        if self.framing == "chunked":
            await self.wire.write(b"0\r\n\r\n")
        self.delivery.outcome = "complete"

    def _fields(self) -> Headers:
        start, size, fx = self.delivery.start, self.content.size, self.fx
        fields = [("Content-Type", fx.content_type or "application/octet-stream")]
        if self.framing == "length":
            fields.append(("Content-Length", str(self.stop - start + (fx.lie or 0))))
        elif self.framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        if self.delivery.status == 206:
            fields.append(("Content-Range", fx.content_range or f"bytes {start}-{self.stop - 1}/{size}"))
        if fx.etag is not None:
            fields.append(("ETag", fx.etag))
        if fx.gzip:
            fields.append(("Content-Encoding", "gzip"))
        return [*fields, ("Content-Disposition", fx.disposition or _disposition(self.name))]

    def _pieces(self) -> Iterator[memoryview | bytes]:
        """The body, never across a byte count at which something is to happen."""
        chunks: Iterator[memoryview | bytes] = self.content.chunks(self.delivery.start, self.stop)
        if self.fx.gzip:
            chunks = _gzip(chunks)
        marks = [mark for mark in (self.fx.cut_at, self.fx.stall_at, self.fx.stop_session_at) if mark is not None]
        return _split(chunks, marks, max(1, int(self.rate / 20)) if self.rate else CHUNK)

    async def _write(self, piece: memoryview | bytes) -> None:
        if self.rate:
            await asyncio.sleep(len(piece) / self.rate)
        if self.framing == "chunked":
            await self.wire.write(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))
        else:
            await self.wire.write(piece)
        self.delivery.sent += len(piece)

    async def _meet(self, sent: int) -> None:
        """Do what is due at this byte count, which comes once."""
        fx = self.fx
        if fx.stall_at == sent:
            await (self.released() if fx.stall is None else asyncio.sleep(fx.stall))
        if fx.stop_session_at == sent:
            self.stop_session()
        if fx.cut_at == sent and fx.cut == "close":
            self.wire.keep_alive = False
            raise Cut
        if fx.cut_at == sent or not self.alive():
            await self.wire.reset()
            raise Cut


def _disposition(name: str) -> str:
    return f"attachment; filename={name}; filename*=UTF-8''{quote(name)}"


def _split(chunks: Iterator[memoryview | bytes], marks: list[int], most: int) -> Iterator[memoryview | bytes]:
    """The same bytes in pieces of at most `most`, none of which crosses a mark."""
    sent = 0
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            piece = chunk[at : at + min([most, *(mark - sent for mark in marks if mark > sent)])]
            yield piece
            at += len(piece)
            sent += len(piece)


def _gzip(chunks: Iterator[memoryview | bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()
