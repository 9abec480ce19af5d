"""The response to a Range, made of the one without it (RFC 9110 §14, §15.3.7, §15.5.17)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proxy.core.http.dates import parse_date
from proxy.core.http.fields import Field, value_of, values_of
from proxy.core.http.heads import Framing, ResponseHead, parse_response
from proxy.core.http.ranges import Facts, One, Unsatisfiable, content_range, select

#: Equals nothing that a client sends: a field value has no line break.
_NO_TAG = "\n"


def requested(
    fields: Iterable[Field], whole: ResponseHead, size: int
) -> One | Unsatisfiable | None:
    """The part of a file of `size` bytes that a request with these fields gets, None for all of it:
    without a Range, with one that is malformed or has several parts, and if If-Range does not match
    the validators of `whole`, the response with all of it.
    """
    fields = list(fields)

    def lines(name: str) -> Sequence[str]:
        if name not in ("Range", "If-Range"):  # other conditions are for GET
            return ()
        return [value.decode("latin-1") for value in values_of(fields, name.lower().encode())]

    selection = select("GET", lines, _facts(whole, size))
    return selection if isinstance(selection, One | Unsatisfiable) else None


def _facts(whole: ResponseHead, size: int) -> Facts:
    etag = value_of(whole.fields, b"etag")
    strong = etag is not None and not etag.startswith(b"W/")
    modified = value_of(whole.fields, b"last-modified")
    date = None if modified is None else parse_date(modified.decode("latin-1"), near=0.0)
    return Facts(
        size=size,
        etag=etag.decode("latin-1") if etag is not None and strong else _NO_TAG,
        modified=-1.0 if date is None else float(date),
    )


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
