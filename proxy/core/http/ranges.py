"""Preconditions and ranges: which part of a file to send (CONTRACT §6; RFC 9110 §13, §14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from proxy.core.http.dates import parse_date

#: Returns the values of a field as text, in order.
Lookup = Callable[[str], Sequence[str]]
#: The bytes [start, stop) of the file.
Part = tuple[int, int]

#: CONTRACT §6: the highest number of parts, after coalescing.
MAX_PARTS = 8
#: The highest number of range specs that are parsed, which bounds the cost of a request.
MAX_SPECS = 1024
#: The highest number of entity tags of a field that are compared, for the same reason.
MAX_TAGS = 1024

#: An element of a list that is not empty, with the blanks behind it.
_ELEMENT = re.compile(r"[^, \t][^,]*+")
_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_ETAG_ELEMENT = re.compile(r'(?:[^,"]|"[^"]*+(?:"|\Z))++')
_ETAG = re.compile(r'(?:W/)?"[^\x00-\x20"\x7f]*"')
_SUFFIX = re.compile(r"-0*[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class Facts:
    """The file: `size` in bytes, `etag` strong and in quotes, `modified` in Unix seconds."""

    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Whole:
    """200: the whole file."""


@dataclass(frozen=True, slots=True)
class NotModified:
    """304: the client's copy is current."""


@dataclass(frozen=True, slots=True)
class PreconditionFailed:
    """412: a precondition failed."""


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416: no range is satisfiable, or there are too many."""


@dataclass(frozen=True, slots=True)
class One:
    """206: the bytes [start, stop)."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Several:
    """206 as multipart/byteranges: 2 to `MAX_PARTS` parts that neither overlap nor touch, in the
    requested order.
    """

    parts: tuple[Part, ...]


Selection = Whole | NotModified | PreconditionFailed | Unsatisfiable | One | Several


def select(method: str, fields: Lookup, facts: Facts) -> Selection:
    """What to send for a GET or HEAD of the file, in the order of RFC 9110 §13.2.2."""
    if _stale(fields, facts):
        return PreconditionFailed()
    if _fresh(fields, facts):
        return NotModified()
    ranges = fields("Range")
    if method != "GET" or len(ranges) != 1 or not _if_range(fields, facts):
        return Whole()
    return _ranges(ranges[0], facts.size)


def _stale(fields: Lookup, facts: Facts) -> bool:
    """Steps 1 and 2: If-Match by strong comparison, else If-Unmodified-Since."""
    if lines := fields("If-Match"):
        tags = etag_list(lines)
        return tags != "*" and facts.etag not in tags
    since = _date(fields("If-Unmodified-Since"), facts)
    return since is not None and _seconds(facts) > since


def _fresh(fields: Lookup, facts: Facts) -> bool:
    """Steps 3 and 4: If-None-Match by weak comparison, else If-Modified-Since."""
    if lines := fields("If-None-Match"):
        tags = etag_list(lines)
        return tags == "*" or facts.etag in {tag.removeprefix("W/") for tag in tags}
    since = _date(fields("If-Modified-Since"), facts)
    return since is not None and _seconds(facts) <= since


def _if_range(fields: Lookup, facts: Facts) -> bool:
    """Step 5: If-Range has the same strong entity tag or exactly the same date, or is absent (RFC
    9110 §13.1.5).

    The date is a strong validator here, because the file of a job never changes.
    """
    lines = fields("If-Range")
    if not lines:
        return True
    if len(lines) == 1 and lines[0].strip(" \t") == facts.etag:
        return True
    return _date(lines, facts) == _seconds(facts)


def _seconds(facts: Facts) -> int:
    """Last-Modified in whole seconds, as it is sent."""
    return int(facts.modified // 1)


def _date(lines: Sequence[str], facts: Facts) -> int | None:
    """The date, None unless there is exactly one valid date (RFC 9110 §13.1.3)."""
    return parse_date(lines[0].strip(" \t"), near=facts.modified) if len(lines) == 1 else None


def etag_list(lines: Sequence[str]) -> list[str] | Literal["*"]:
    """The entity tags of If-Match or If-None-Match, with `W/` (RFC 9110 §8.8.3). Malformed elements
    are ignored, and so is everything after the first `MAX_TAGS` elements.
    """
    joined = ",".join(lines)
    if joined.strip(" \t") == "*":
        return "*"
    found = islice(_ETAG_ELEMENT.finditer(joined), MAX_TAGS)
    elements = (match[0].strip(" \t") for match in found)
    return [element for element in elements if _ETAG.fullmatch(element)]


def _ranges(value: str, size: int) -> Selection:
    unit, equals, text = value.strip(" \t").partition("=")
    if not equals or unit.lower() != "bytes":
        return Whole()
    found = islice(_ELEMENT.finditer(text), MAX_SPECS + 1)
    specs = [element[0].rstrip(" \t") for element in found]
    if not specs:
        return Whole()
    if len(specs) > MAX_SPECS:
        return Unsatisfiable()
    parts = [_part(spec, size) for spec in specs]
    if None in parts or (not size and any(map(_SUFFIX.fullmatch, specs))):
        # Malformed; or satisfiable, but Content-Range cannot express a part of an empty file.
        return Whole()
    return _selection(coalesce([part for part in parts if part and part[0] < part[1]]))


def _selection(parts: Sequence[Part]) -> Selection:
    if not parts or len(parts) > MAX_PARTS:
        return Unsatisfiable()
    return One(*parts[0]) if len(parts) == 1 else Several(tuple(parts))


def _part(spec: str, size: int) -> Part | None:
    """The bytes that a range spec selects: an empty part (start ≥ stop) if none, None if it is
    malformed.
    """
    found = _SPEC.fullmatch(spec)
    if found is None or spec == "-":
        return None
    first, last = found[1].lstrip("0"), found[2].lstrip("0")
    if not found[1]:
        return size - _clamped(last, size), size
    if not found[2]:
        return _clamped(first, size), size
    if (len(last), last) < (len(first), first):
        return None
    return _clamped(first, size), min(_clamped(last, size) + 1, size)


def _clamped(digits: str, size: int) -> int:
    """The number, but at most `size`. The cost does not depend on the number of digits."""
    return min(int(digits or "0"), size) if len(digits) <= len(str(size)) else size


def coalesce(parts: Sequence[Part]) -> list[Part]:
    """Join parts that overlap or touch (RFC 9110 §15.3.7.2). A joined part has the position of the
    first of its members.
    """
    merged: list[tuple[int, int, int]] = []
    for start, stop, order in sorted(
        (start, stop, order) for order, (start, stop) in enumerate(parts)
    ):
        if merged and start <= merged[-1][1]:
            last = merged[-1]
            merged[-1] = (last[0], max(last[1], stop), min(last[2], order))
        else:
            merged.append((start, stop, order))
    return [(start, stop) for start, stop, _ in sorted(merged, key=lambda part: part[2])]


def content_range(start: int, stop: int, size: int) -> str:
    """The Content-Range value of the bytes [start, stop) of `size` (RFC 9110 §14.4)."""
    return f"bytes {start}-{stop - 1}/{size}"


@dataclass(frozen=True, slots=True)
class Multipart:
    """A multipart/byteranges body. `pieces` are literal bytes and parts of the file, in order;
    `length` is in bytes.
    """

    media_type: str
    pieces: tuple[bytes | Part, ...]
    length: int


def multipart(parts: Sequence[Part], size: int, media_type: str, boundary: str) -> Multipart:
    """The body with these parts of a file of `size` bytes (RFC 9110 §14.6).

    `media_type` is that of the file, as latin-1 text; `boundary` is 1 to 70 letters and digits that
    the file does not contain.
    """
    pieces: list[bytes | Part] = []
    for start, stop in parts:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: "
            f"{content_range(start, stop, size)}"
        )
        pieces += [head.encode("latin-1") + b"\r\n\r\n", (start, stop)]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    length = sum(
        len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces
    )
    return Multipart(f"multipart/byteranges; boundary={boundary}", tuple(pieces), length)
