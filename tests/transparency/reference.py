"""A plain reader of HTTP/1.x that shares no code with the proxy, so that it can judge the proxy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.wire import Peer


@dataclass(frozen=True)
class Message:
    """A message as bytes: start line, field lines (each with its CRLF), body with its framing."""

    start: bytes
    lines: tuple[bytes, ...]
    body: bytes

    @classmethod
    def of(cls, raw: bytes) -> Message:
        """The message that `raw` is."""
        head, _, body = raw.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        return cls(start, tuple(line + b"\r\n" for line in lines), body)

    @property
    def raw(self) -> bytes:
        """The bytes of the message."""
        return self.start + b"\r\n" + b"".join(self.lines) + b"\r\n" + self.body

    def values(self, name: bytes) -> list[bytes]:
        """Values of the fields of that lower-case name."""
        return [value_of(line) for line in self.lines if name_of(line) == name]

    def without(self, drop: Callable[[bytes], bool]) -> Message:
        """The message without the lines whose lower-case name `drop` accepts."""
        return Message(
            self.start, tuple(line for line in self.lines if not drop(name_of(line))), self.body
        )

    @property
    def chunked(self) -> bool:
        """True iff its body is chunked."""
        return [value.lower() for value in self.values(b"transfer-encoding")] == [b"chunked"]


def name_of(line: bytes) -> bytes:
    """The lower-case name of a field line."""
    return line.partition(b":")[0].lower()


def value_of(line: bytes) -> bytes:
    """The value of a field line."""
    return line.partition(b":")[2].strip(b" \t\r\n")


async def read_request(peer: Peer) -> bytes:
    """One request, whole."""
    head = await peer.head()
    return head + await _read_body(peer, Message.of(head))


async def read_response(peer: Peer, method: bytes) -> bytes:
    """Read the response to one request, with its interim responses."""
    raw = b""
    while True:
        head = await peer.head()
        raw += head
        message = Message.of(head)
        status = int(message.start.split(b" ")[1])
        if status < 200 and status != 101:
            continue
        if method == b"HEAD" or status in (101, 204, 304):
            return raw
        if message.values(b"content-length") or message.chunked:
            return raw + await _read_body(peer, message)
        return raw + await peer.rest()


async def _read_body(peer: Peer, message: Message) -> bytes:
    if message.chunked:
        return await _read_chunks(peer)
    lengths = message.values(b"content-length")
    return await peer.exactly(int(lengths[0])) if lengths else b""


async def _read_chunks(peer: Peer) -> bytes:
    raw = b""
    while True:
        line = await peer.until(b"\r\n")
        raw += line
        size = int(line.partition(b";")[0], 16)
        if not size:
            break
        raw += await peer.exactly(size + 2)
    while line != b"\r\n":
        line = await peer.until(b"\r\n")
        raw += line
    return raw


def chunks(body: bytes) -> tuple[list[bytes], bytes]:
    """Payloads of a chunked body, and what stands behind its last chunk: the trailers with the
    empty line.
    """
    found: list[bytes] = []
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if not size:
            return found, body
        found.append(body[:size])
        body = body[size + 2 :]
