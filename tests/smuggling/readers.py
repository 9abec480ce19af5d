"""Three independent readers of a byte stream of requests. A stream is safe if all of them agree."""

from __future__ import annotations

import re

import h11

#: Method, target and payload of a whole request.
Request = tuple[bytes, bytes, bytes]


def strict(stream: bytes) -> list[Request]:
    """As h11 reads it; what it refuses ends the reading."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    connection.receive_data(stream)
    found: list[Request] = []
    begun: h11.Request | None = None
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return found
        if isinstance(event, h11.Request) and event.method == b"CONNECT":
            return found  # nothing that follows it is HTTP
        if isinstance(event, h11.Request):
            begun, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and begun is not None:
            found.append((begun.method, begun.target, body))
            _turn(connection)
            if connection.our_state is not h11.IDLE:
                return found
        else:
            return found


def _turn(connection: h11.Connection) -> None:
    """Response, so that the next request is read."""
    connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")], reason=b"OK"))
    connection.send(h11.EndOfMessage())
    if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
        connection.start_next_cycle()


def lengths_first(stream: bytes) -> list[Request]:
    """A server of the careless kind: lines end with LF, the last Content-Length counts, then
    chunks.
    """
    return _careless(stream, prefer_chunks=False)


def chunks_first(stream: bytes) -> list[Request]:
    """Another: anything that holds `chunked` is chunked, whatever stands beside it; sizes are read
    leniently.
    """
    return _careless(stream, prefer_chunks=True)


READERS = (strict, lengths_first, chunks_first)


def _careless(stream: bytes, *, prefer_chunks: bool) -> list[Request]:
    found: list[Request] = []
    while True:
        match = re.match(rb"\s*(\S+)[ \t]+(\S+)[^\n]*\n((?:[^\n]*[^\r\n][^\n]*\n)*)\r?\n", stream)
        if match is None:
            return found
        lengths = re.findall(rb"(?im)^\s*content-length\s*:\s*\+?(\d+)", match[3])
        chunked = re.search(rb"(?im)^\s*transfer-encoding\s*:[^\n]*chunked", match[3]) is not None
        rest = stream[match.end() :]
        if chunked and (prefer_chunks or not lengths):
            read = _careless_chunks(rest)
        else:
            size = int(lengths[-1]) if lengths else 0
            read = (rest[:size], rest[size:]) if size <= len(rest) else None
        if read is None:
            return found
        found.append((match[1], match[2], read[0]))
        stream = read[1]


def _careless_chunks(stream: bytes) -> tuple[bytes, bytes] | None:
    payload = b""
    while True:
        match = re.match(rb"\s*(?:0[xX])?([0-9a-fA-F]+)[^\n]*\n", stream)
        if match is None:
            return None
        size, stream = int(match[1], 16), stream[match.end() :]
        if not size:
            end = re.match(rb"(?:(?!\r*+\n)[^\n]*+\n)*+\r?\n", stream)
            return (payload, stream[end.end() :]) if end else None
        payload, stream = payload + stream[:size], re.sub(rb"\A\r?\n", b"", stream[size:])
