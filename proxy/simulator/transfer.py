"""The transfer of a file: byte ranges, framing and the faults of a transfer."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from proxy.simulator.content import CHUNK, Content
from proxy.simulator.faults import Effects
from proxy.simulator.responses import Headers, ResponseWriter, with_changes

#: How often a rate-limited transfer writes, per second.
_WRITES_PER_SECOND = 20
#: zlib's `wbits` for the gzip format.
_GZIP_WBITS = 31


@dataclass(slots=True)
class Delivery:
    """What was sent for one export request.

    `status`: the status sent, None before that.
    `start`: the offset in the file where the body begins.
    `sent`: the number of body bytes sent.
    `outcome`: "open", "complete", "refused" (a response without the file), "cut" (ended early by a
    fault or a stopped session) or "disconnected" (by the client).
    """

    path: str
    status: int | None = None
    start: int = 0
    sent: int = 0
    outcome: str = "open"


class BodyTruncated(Exception):
    """A fault or a stopped session ends the body early."""


UNSATISFIABLE = (-1, -1)


def byte_range(value: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes [start, stop) that a Range field with one range selects.

    Returns `UNSATISFIABLE` for a range outside the file, and None for a missing, malformed or
    unsupported field, which is ignored (RFC 9110 §14.2).
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", value.strip()) if value else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        suffix = int(found[2])
        return (max(0, size - suffix), size) if suffix and size else UNSATISFIABLE
    start, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < start:
        return None
    return (start, min(last + 1, size)) if start < size else UNSATISFIABLE


def if_range(value: str | None, etag: str | None) -> bool:
    """Return whether the If-Range field allows a range (RFC 9110 §13.1.5).

    It does if it is missing or equals the strong ETag of the file.
    """
    return value is None or (value == etag and value.startswith('"'))


@dataclass(slots=True, kw_only=True)
class Transfer:
    """Sends the bytes of `content` from `delivery.start` to `stop` as a file called `name`.

    `rate` is in bytes per second. `session_is_working` reports whether the restore session is
    working and `stop_session` stops it. `wait_for_release` suspends a stall without a duration
    until a test releases it.
    """

    writer: ResponseWriter
    delivery: Delivery
    content: Content
    name: str
    stop: int
    effects: Effects
    rate: float | None
    session_is_working: Callable[[], bool]
    stop_session: Callable[[], None]
    wait_for_release: Callable[[], Awaitable[None]]
    framing: str = field(init=False)

    def __post_init__(self) -> None:
        """Choose the framing; a compressed body is chunked, because its length is not known."""
        effects = self.effects
        default = "chunked" if effects.gzip or effects.unterminated else "length"
        self.framing = effects.framing or default

    async def run(self) -> None:
        """Send the response.

        Raises `BodyTruncated` if the body ends early, and `ConnectionError` if the client
        disconnects.
        """
        effects = self.effects
        if self.framing == "close" or effects.lie or effects.unterminated:
            self.writer.keep_alive = False
        fields = with_changes(self._fields(), effects.headers, effects.set_cookies)
        await self.writer.write_head(self.delivery.status or 200, fields)
        for piece in self._pieces():
            await self._apply_faults()
            await self._write(piece)
        await self._apply_faults()
        if effects.unterminated:
            raise BodyTruncated
        if self.framing == "chunked":
            await self.writer.write(b"0\r\n\r\n")
        self.delivery.outcome = "complete"

    def _fields(self) -> Headers:
        start, size, effects = self.delivery.start, self.content.size, self.effects
        fields = [("Content-Type", effects.content_type or "application/octet-stream")]
        if self.framing == "length":
            fields.append(("Content-Length", str(self.stop - start + (effects.lie or 0))))
        elif self.framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        if self.delivery.status == 206:
            content_range = effects.content_range or f"bytes {start}-{self.stop - 1}/{size}"
            fields.append(("Content-Range", content_range))
        if effects.etag is not None:
            fields.append(("ETag", effects.etag))
        if effects.gzip:
            fields.append(("Content-Encoding", "gzip"))
        disposition = effects.disposition or _content_disposition(self.name)
        return [*fields, ("Content-Disposition", disposition)]

    def _pieces(self) -> Iterator[memoryview | bytes]:
        """Yield the body in pieces that end at each byte count where a fault applies."""
        effects = self.effects
        chunks: Iterator[memoryview | bytes] = self.content.chunks(self.delivery.start, self.stop)
        if effects.gzip:
            chunks = _gzip(chunks)
        marks = (effects.cut_at, effects.stall_at, effects.stop_session_at)
        boundaries = [mark for mark in marks if mark is not None]
        max_size = max(1, int(self.rate / _WRITES_PER_SECOND)) if self.rate else CHUNK
        return _split(chunks, boundaries, max_size)

    async def _write(self, piece: memoryview | bytes) -> None:
        if self.rate:
            await asyncio.sleep(len(piece) / self.rate)
        if self.framing == "chunked":
            await self.writer.write(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))
        else:
            await self.writer.write(piece)
        self.delivery.sent += len(piece)

    async def _apply_faults(self) -> None:
        """Apply the faults of the current byte count. Raises `BodyTruncated`."""
        effects, sent = self.effects, self.delivery.sent
        if effects.stall_at == sent:
            stall = effects.stall
            await (self.wait_for_release() if stall is None else asyncio.sleep(stall))
        if effects.stop_session_at == sent:
            self.stop_session()
        if effects.cut_at == sent and effects.cut == "close":
            self.writer.keep_alive = False
            raise BodyTruncated
        if effects.cut_at == sent or not self.session_is_working():
            await self.writer.reset()
            raise BodyTruncated


def _content_disposition(name: str) -> str:
    return f"attachment; filename={name}; filename*=UTF-8''{quote(name)}"


def _split(
    chunks: Iterator[memoryview | bytes], boundaries: list[int], max_size: int
) -> Iterator[memoryview | bytes]:
    """Yield the bytes in pieces of at most `max_size` bytes, split at each boundary."""
    sent = 0
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            size = min([max_size, *(mark - sent for mark in boundaries if mark > sent)])
            piece = chunk[at : at + size]
            yield piece
            at += len(piece)
            sent += len(piece)


def _gzip(chunks: Iterator[memoryview | bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=_GZIP_WBITS)
    for chunk in chunks:
        if compressed := compressor.compress(chunk):
            yield compressed
    yield compressor.flush()
