"""The response to a Range, made of the one without it (RFC 9110 §14, §15.3.7, §15.5.17)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proxy.core.http.fields import Field, values_of
from proxy.core.http.heads import Framing, ResponseHead, parse_response
from proxy.core.http.ranges import Facts, One, Unsatisfiable, content_range, select
from proxy.core.http.validators import strong_etag


def requested(
    fields: Iterable[Field], whole: ResponseHead, size: int
) -> One | Unsatisfiable | None:
    """The part of a file of `size` bytes that a request with these fields gets, None for all of it:
    without a Range, with one that is malformed or has several parts, and if If-Range is not the
    strong ETag of `whole`, the response with all of it.

    A date in If-Range never matches (RFC 9110 §13.1.5): VB365 may generate different files with the
    same Last-Modified.
    """
    fields = list(fields)
    conditions = values_of(fields, b"if-range")
    if conditions and conditions != [strong_etag(whole.fields)]:
        return None
    ranges = [value.decode("latin-1") for value in values_of(fields, b"range")]

    def lines(name: str) -> Sequence[str]:
        return ranges if name == "Range" else ()  # other conditions are for GET

    selection = select("GET", lines, Facts(size=size, etag="", modified=0.0))
    return selection if isinstance(selection, One | Unsatisfiable) else None


def partial_response(whole: ResponseHead, part: One | Unsatisfiable, size: int) -> ResponseHead:
    """The head of the response with that part: the fields of `whole`, in order."""
    if isinstance(part, Unsatisfiable):
        lines = b"Content-Length: 0\r\nContent-Range: bytes */%d\r\n" % size
        return _parsed(b"416 Range Not Satisfiable", lines)
    length = b"%d" % (part.stop - part.start)
    kept = []
    for line in whole.kept.splitlines(keepends=True):
        name, _, _ = line.partition(b":")
        if name.lower() in (b"content-length", b"transfer-encoding"):
            spelled = name if name.lower() == b"content-length" else b"Content-Length"
            kept.append(b"%b: %b\r\n" % (spelled, length))
        elif name.lower() != b"content-range":
            kept.append(line)
    if whole.framing is Framing.CLOSE:
        kept.append(b"Content-Length: %b\r\n" % length)
    kept.append(b"Content-Range: %b\r\n" % content_range(part.start, part.stop, size).encode())
    return _parsed(b"206 Partial Content", b"".join(kept))


def repeated_response(reason: bytes, lines: bytes) -> ResponseHead:
    """The head of a 200 to a POST with this reason phrase and these field lines. Raises
    `MalformedMessage`.
    """
    return _parsed(b"200 " + reason, lines)


def _parsed(status: bytes, lines: bytes) -> ResponseHead:
    return parse_response(b"HTTP/1.1 %b\r\n%b\r\n" % (status, lines), b"POST")
