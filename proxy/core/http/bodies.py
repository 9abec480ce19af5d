"""Scanners that find the end of a body in the bytes of a connection.

`feed(data)` returns `(forward, rest)`: the bytes to forward, and those after the end of the body,
which are empty until `done`, unless `Chunks` has a limit.
"""

from __future__ import annotations

import enum
import re
import sys
from typing import Protocol

from proxy.core.http.fields import FIELD_LINE
from proxy.core.http.heads import MAX_FIELDS, Framing, MalformedMessage

#: Limits in bytes: of a chunk-size line with its extensions, and of all trailers of a body.
MAX_SIZE_LINE = 1 << 12
MAX_TRAILERS = 1 << 16
#: Chunk extensions of a body that are accepted: this many, and one more per KiB of the body. RFC
#: 9112 §7.1.1 asks for a limit: a chunk with an extension takes 25 times as long to scan as one
#: without.
MAX_EXTENSIONS = 1 << 10

#: Fifteen digits cannot overflow 64 bits anywhere (RFC 9112 §7.1).
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})([ \t]*+;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
#: The end of a chunk, and a size line without extensions of another that is not the last one.
_NEXT = re.compile(rb"\r\n(?!0+\r)([0-9A-Fa-f]{1,15})\r\n")
#: Complete chunks of 1 to 31 bytes that follow the end of a chunk. One by one, 256 KiB of one-byte
#: chunks would take ten times as long as with this, and occupy the event loop. The group is not
#: possessive: before Python 3.11.5, as in Debian 12, it would consume a part of the next chunk
#: (CPython issue 106052).
_SMALL = re.compile(
    rb"(?:\r\n0{0,13}+(?:%s)){1,4096}"
    % b"|".join(b"%x\r\n.{%d}" % (size, size) for size in range(1, 32)),
    re.DOTALL | re.IGNORECASE,
)
_SIZE_START = re.compile(rb"[0-9A-Fa-f]{1,15}(?:[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?)?\r?")
#: A chunk of fewer bytes is copied: a view of it takes longer to make, and 184 bytes.
_COPIED = 1 << 10
#: Larger chunks take no time beside that of their bytes, and do not count as scanned.
_LARGE = 1 << 12
#: The number of bytes of a size line that contain its digits and the byte after them.
_SIZE_WITHIN = 16
_END_START = re.compile(rb"\r")
_TEXT_START = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+\r?")
#: RFC 9110 §6.5.1: trailers that would change framing, routing or the connection if merged.
_NO_TRAILERS = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-length",
        b"cookie",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class Body(Protocol):
    """Finds the end of a body. `done` is True once the framing proves it."""

    done: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Scan the next bytes of the connection, which are not empty; not to be called once `done`.

        Raises `MalformedMessage` on malformed chunks.
        """


class Nothing:
    """No body."""

    done = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """All bytes are after the end."""
        return b"", data


class Counted:
    """A body of `left` more bytes (Content-Length)."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Forward at most `left` bytes."""
        left = self.left
        if len(data) < left:
            self.left = left - len(data)
            return data, b""
        self.left = 0
        self.done = True
        return data[:left], data[left:]

    def skip(self, count: int) -> None:
        """Note `count` bytes, at most `left`, that were forwarded without `feed`."""
        self.left -= count
        self.done = self.left == 0


class UntilClose:
    """A body that ends with the connection. Nothing proves that it is complete."""

    done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Forward all bytes."""
        return data, b""


class _Stage(enum.Enum):
    SIZE = 0
    DATA = 1
    DATA_END = 2
    TRAILERS = 3


_STARTS = {_Stage.SIZE: _SIZE_START, _Stage.DATA_END: _END_START, _Stage.TRAILERS: _TEXT_START}


class Chunks:
    """A chunked body, each chunk of which is verified (RFC 9112 §7.1).

    It forwards the chunks without extensions but with trailers, or with `decode` the payload.

    `feed` stops once `scanned` is `most`, and returns the rest, until the caller sets it to 0.
    """

    __slots__ = (
        "_decode",
        "_extensions",
        "_held",
        "_left",
        "_most",
        "_offset",
        "_stage",
        "_trailer_lines",
        "_trailers",
        "done",
        "scanned",
    )

    def __init__(self, *, decode: bool = False, most: int = sys.maxsize) -> None:
        self.done = False
        self._most = most
        #: Trailers, and chunks of less than 4 KiB, since the caller has set it to 0; chunks of few
        #: bytes count less than one.
        self.scanned = 0
        self._decode = decode
        self._stage = _Stage.SIZE
        self._left = 0
        self._held = bytearray()
        self._trailers = self._trailer_lines = 0
        self._extensions = 0
        #: Of the end of the line that is read, from the beginning of the body.
        self._offset = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Scan the next bytes. Raises `MalformedMessage` as soon as they cannot be part of a
        chunked body.
        """
        out: list[bytes | memoryview] = []
        view, size = memoryview(data), len(data)
        at = begin = 0
        before = self._offset
        while at < size and not self.done and self.scanned < self._most:
            if self._stage is _Stage.DATA:
                stop = self._skim(data, at, size, out if self._decode else None)
            else:
                stop = data.find(b"\n", at) + 1 or size
                self._offset = before + stop
                kept = self._line(data[at:stop])
                if kept is not None:
                    if not self._decode:
                        out += (view[begin:at], kept)
                    begin = stop
            at = stop
        self._offset = before + at
        if self._decode:
            return b"".join(out), data[at:]
        if not out:
            return data[begin:at], data[at:]
        return b"".join((*out, view[begin:at])), data[at:]

    def _skim(
        self, data: bytes, at: int, size: int, payload: list[bytes | memoryview] | None
    ) -> int:
        """Skip payload and the size lines without extensions between chunks, which is most of a
        long body. Returns where it stopped.
        """
        while True:
            stop = at + self._left
            if payload is not None:
                small_one = self._left < _COPIED
                payload.append(data[at:stop] if small_one else memoryview(data)[at:stop])
            if stop > size:
                self._left = stop - size
                return size
            if payload is None and (small := _SMALL.match(data, stop)) is not None:
                self.scanned += (small.end() - stop) >> 5
                stop = small.end()
            match = _NEXT.match(data, stop)
            if match is None:
                self._left = 0
                self._stage = _Stage.DATA_END
                return stop
            self._left = int(match[1], 16)
            at = match.end()
            if self._left >= _LARGE:
                continue
            self.scanned += 1
            if self.scanned >= self._most:
                return at

    def _line(self, line: bytes) -> bytes | None:
        """Read a line between chunks, or the beginning of one. Returns what to forward instead of
        it, None if the line itself.
        """
        if not line.endswith(b"\n"):
            self._hold(line)
            return b""
        if not self._held:
            kept = self._take(line)
            return None if kept is line else kept
        self._held += line
        whole = bytes(self._held)
        self._held.clear()
        return self._take(whole)

    def _hold(self, start: bytes) -> None:
        """Keep the beginning of a line, if it can become one. Only the new bytes and a few before
        them are inspected.
        """
        held = self._held
        trailers = self._stage is _Stage.TRAILERS
        limit = MAX_TRAILERS - self._trailers if trailers else MAX_SIZE_LINE
        if len(held) + len(start) > limit or held.endswith(b"\r"):
            raise MalformedMessage("a chunk is malformed")
        if not held:
            pattern, checked = _STARTS[self._stage], start
        elif trailers or b";" in held:
            pattern, checked = _TEXT_START, start
        else:  # a size is in the first bytes; only blanks can be between it and a semicolon
            pattern, checked = _STARTS[self._stage], bytes(held[:_SIZE_WITHIN]) + start
        if not pattern.fullmatch(checked):
            raise MalformedMessage("a chunk is malformed")
        held += start

    def _take(self, line: bytes) -> bytes:
        """Read a line between chunks. Returns what to forward of it: the same object if it is
        unchanged.
        """
        if self._stage is _Stage.SIZE:
            return self._size(line)
        if self._stage is _Stage.DATA_END:
            if line != b"\r\n":
                raise MalformedMessage("a chunk is longer than its size")
            self._stage = _Stage.SIZE
        else:
            self._trailer(line)
        return line

    def _size(self, line: bytes) -> bytes:
        match = _SIZE_LINE.fullmatch(line)
        if match is None or len(line) > MAX_SIZE_LINE:
            raise MalformedMessage("a chunk size is malformed")
        self._left = int(match[1], 16)
        self._stage = _Stage.DATA if self._left else _Stage.TRAILERS
        self.scanned += self._left < _LARGE
        if match[2] is None:
            return line
        self._extensions += 1
        if self._extensions > MAX_EXTENSIONS + (self._offset >> 10):
            raise MalformedMessage("the body has too many chunk extensions")
        return match[1] + b"\r\n"

    def _trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.done = True
            return
        self.scanned += 1
        match = FIELD_LINE.fullmatch(line)
        self._trailers += len(line)
        self._trailer_lines += 1
        too_many = self._trailers > MAX_TRAILERS or self._trailer_lines > MAX_FIELDS
        if match is None or match[1].lower() in _NO_TRAILERS or too_many:
            raise MalformedMessage("a trailer is malformed or must not be one")


def body_of(
    framing: Framing, length: int, *, decode: bool = False, most: int = sys.maxsize
) -> Body:
    """The scanner for a message with this framing. `decode` forwards the payload of chunks instead
    of the chunks; `most` is that of `Chunks`.
    """
    if framing is _NONE:
        return NOTHING
    if framing is _LENGTH:
        return Counted(length)
    if framing is _CHUNKED:
        return Chunks(decode=decode, most=most)
    return UNTIL_CLOSE


#: Looking up a member of an enumeration is too slow for the hot path.
_NONE, _LENGTH, _CHUNKED = Framing.NONE, Framing.LENGTH, Framing.CHUNKED
NOTHING = Nothing()
UNTIL_CLOSE = UntilClose()
