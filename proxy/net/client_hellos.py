"""Finds the length of a ClientHello before OpenSSL does, which takes as much memory, up to 128 KiB,
before the message has arrived.
"""

from __future__ import annotations

#: RFC 8446 §4 and §5.1: types, and bytes of a header.
_HANDSHAKE_RECORD, _CLIENT_HELLO = 22, 1
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4


class ClientHellos:
    """The ClientHellos in what a client sends. There are two if the server requests a retry.

    None follows another message, but encrypted ones may, whose records look alike before TLS 1.3.
    """

    __slots__ = ("_ended", "_message", "_message_header", "_record", "_record_header", "longest")

    def __init__(self) -> None:
        #: Bytes that the longest one announces.
        self.longest = 0
        #: The part of a header that has arrived.
        self._record_header, self._message_header = bytearray(), bytearray()
        #: The bytes of the record and of the message that have not arrived.
        self._record = self._message = 0
        #: Another message has begun.
        self._ended = False

    def read(self, data: bytes) -> None:
        """Read more."""
        at = 0
        while at < len(data) and not self._ended:
            if not self._record:
                at += _fill(self._record_header, _RECORD_HEADER, data, at)
                if len(self._record_header) == _RECORD_HEADER:
                    self._record = int.from_bytes(self._record_header[3:])
                    if not self._record:
                        self._record_header.clear()
                continue
            part = data[at : at + self._record]
            at += len(part)
            self._record -= len(part)
            if self._record_header[0] == _HANDSHAKE_RECORD:
                self._read_messages(part)
            if not self._record:
                self._record_header.clear()

    def _read_messages(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._ended:
            if self._message:
                skipped = min(self._message, len(data) - at)
                self._message -= skipped
                at += skipped
                continue
            header = self._message_header
            at += _fill(header, _MESSAGE_HEADER, data, at)
            if len(header) == _MESSAGE_HEADER:
                self._message = int.from_bytes(header[1:])
                self._ended = header[0] != _CLIENT_HELLO
                if not self._ended:
                    self.longest = max(self.longest, self._message)
                header.clear()


def _fill(header: bytearray, size: int, data: bytes, at: int) -> int:
    """Add what is missing of a header, and return how many bytes of the data that were."""
    missing = data[at : at + size - len(header)]
    header += missing
    return len(missing)
