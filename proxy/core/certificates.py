"""When a certificate is valid, read from its DER encoding (RFC 5280 §4.1, X.690 §8).

A library that reads all of a certificate takes 9 MiB of memory, and OpenSSL does the verification.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
#: Where the validity is in a TBSCertificate, without the version.
_VALIDITY = 3


def validity(der: bytes) -> tuple[datetime, datetime]:
    """Not before, and not after. Raises ValueError if that cannot be read."""
    try:
        certificate = _sequence(next(_elements(der)))
        fields = _elements(_sequence(next(_elements(certificate))))
        values = [element for element in fields if element[0] != _VERSION]
        begins, ends = _elements(_sequence(values[_VALIDITY]))
    except (StopIteration, IndexError) as why:
        raise ValueError("not a certificate") from why
    return _time(begins), _time(ends)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the content of each element. Raises ValueError."""
    at = 0
    while at < len(data):
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[at + 2 : start], "big")
        at = start + length
        if at > len(data):
            raise ValueError("an element is cut off")
        yield tag, data[start:at]


def _sequence(element: tuple[int, bytes]) -> bytes:
    tag, content = element
    if tag != _SEQUENCE:
        raise ValueError("not a sequence")
    return content


def _time(element: tuple[int, bytes]) -> datetime:
    tag, content = element
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year; RFC 5280 §4.1.2.5.1
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
