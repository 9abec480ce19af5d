"""206 and 416 made of a response with all of the file (CONTRACT §14; RFC 9110 §14, §15.3.7)."""

from __future__ import annotations

import pytest

from proxy.core.http.heads import MalformedMessage, ResponseHead
from proxy.core.http.partial import partial_response, repeated_response, requested
from proxy.core.http.ranges import One, Unsatisfiable

SIZE = 1000
DATE = b"Thu, 26 Nov 2026 00:00:00 GMT"
LINES = b'X-A: 1\r\nETag: "a"\r\nLast-Modified: ' + DATE + b"\r\ncontent-length: 1000\r\nx-a: 2\r\n"
WHOLE = repeated_response(b"OK", LINES)


def lines_of(head: ResponseHead) -> bytes:
    return head.kept


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ([], None),
        ([(b"Range", b"bytes=5-")], One(5, SIZE)),
        ([(b"range", b"bytes=5-9")], One(5, 10)),
        ([(b"Range", b"bytes=-9")], One(991, SIZE)),
        ([(b"Range", b"bytes=1000-")], Unsatisfiable()),
        ([(b"Range", b"bytes=0-1,5-6")], None),
        ([(b"Range", b"items=0-1")], None),
        ([(b"Range", b"bytes=x")], None),
        ([(b"Range", b"bytes=5-"), (b"If-Range", b'"a"')], One(5, SIZE)),
        ([(b"Range", b"bytes=5-"), (b"If-Range", b'"b"')], None),
        ([(b"Range", b"bytes=5-"), (b"If-Range", b'W/"a"')], None),
        ([(b"Range", b"bytes=5-"), (b"If-Range", b'"a"'), (b"If-Range", b'"a"')], None),
        ([(b"Range", b"bytes=5-"), (b"If-Range", DATE)], None),
        ([(b"Range", b"bytes=5-"), (b"If-None-Match", b'"a"')], One(5, SIZE)),
        ([(b"Range", b"bytes=5-"), (b"If-Match", b'"b"')], One(5, SIZE)),
    ],
)
def test_14_what_a_request_gets(
    fields: list[tuple[bytes, bytes]], part: One | Unsatisfiable | None
) -> None:
    """§14: 206 to a Range. Other conditions are for GET."""
    assert requested(fields, WHOLE, SIZE) == part


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b'ETag: W/"a"\r\nLast-Modified: yesterday\r\n',
        b"Last-Modified: " + DATE + b"\r\n",
        b"ETag: a\r\n",
        b'ETag: ""\r\n',
        b'ETag: "a"\r\nETag: "b"\r\n',
    ],
)
@pytest.mark.parametrize("condition", [b'"a"', b'W/"a"', b"a", b'""', b"-", DATE, b"yesterday"])
def test_14_without_a_strong_validator_if_range_never_matches(
    lines: bytes, condition: bytes
) -> None:
    whole = repeated_response(b"OK", lines)
    assert requested([(b"Range", b"bytes=5-"), (b"If-Range", condition)], whole, SIZE) is None


def test_14_a_206_has_the_fields_of_the_200_in_order() -> None:
    part = partial_response(WHOLE, One(5, 10), SIZE)
    assert (part.status, part.reason, part.length) == (206, b"Partial Content", 5)
    expected = LINES.replace(b"length: 1000", b"length: 5") + b"Content-Range: bytes 5-9/1000\r\n"
    assert lines_of(part) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            b"A: 1\r\nTransfer-Encoding: chunked\r\nB: 2\r\n",
            b"A: 1\r\nContent-Length: 5\r\nB: 2\r\n",
        ),
        (b"A: 1\r\n", b"A: 1\r\nContent-Length: 5\r\n"),
        (b"Content-Range: x\r\nContent-Length: 1000\r\n", b"Content-Length: 5\r\n"),
    ],
    ids=["chunked", "until close", "with a Content-Range"],
)
def test_14_a_206_has_a_length_whatever_frames_the_200(lines: bytes, expected: bytes) -> None:
    part = partial_response(repeated_response(b"", lines), One(5, 10), SIZE)
    assert lines_of(part) == expected + b"Content-Range: bytes 5-9/1000\r\n"


def test_14_a_416_has_the_size() -> None:
    part = partial_response(WHOLE, Unsatisfiable(), SIZE)
    assert (part.status, part.length) == (416, 0)
    assert part.get_all(b"content-range") == [b"bytes */1000"]


def test_14_a_stored_head_that_is_malformed_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        repeated_response(b"OK", b"no field\r\n")
