"""`Prefer` and `?async=`: how a caller asks for an asynchronous export (CONTRACT §1, RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

#: No caller waits longer than this many seconds, so more digits need not be told apart.
_LONGEST_WAIT = 10**9

# No byte can be matched in two ways (runs of blanks are possessive), so a failing match costs linear time.
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EQUALS = rb"[ \t]*+=[ \t]*+"
_PARAMETER = rb"%b(?:%b(?:%b|%b)?)?" % (_TOKEN, _EQUALS, _TOKEN, _QUOTED)
_PREFERENCE = re.compile(
    rb"(%b)(?:%b(%b|%b)?)?(?:[ \t]*+;[ \t]*+(?:%b)?)*" % (_TOKEN, _EQUALS, _TOKEN, _QUOTED, _PARAMETER)
)
_ELEMENT = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.?)*(?:"|\Z))+', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)

_TRUE = frozenset((b"", b"true", b"1", b"yes"))
_FALSE = frozenset((b"false", b"0", b"no"))


@dataclass(frozen=True, slots=True)
class Preferences:
    """What `Prefer` says to the proxy: asynchronous or not, and how many seconds the caller waits (unclamped)."""

    respond_async: bool = False
    wait: int | None = None


class Mode(Enum):
    """How an export is answered."""

    ASYNC = "async"
    SYNC = "sync"


class InvalidAsync(ValueError):
    """The `async` query parameter has an unknown value, or is repeated and contradicts itself."""


def _elements(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The list's elements, commas inside quotes not splitting; a quote that never closes reaches to the end."""
    for found in _ELEMENT.finditer(b",".join(lines)):
        if element := found[0].strip(b" \t"):
            yield element


def _named(element: bytes) -> tuple[bytes, bytes] | None:
    """The preference's name in lower case and its unquoted value; None when malformed."""
    found = _PREFERENCE.fullmatch(element)
    if found is None:
        return None
    value: bytes = found[2] or b""
    if value.startswith(b'"'):
        value = _ESCAPED.sub(rb"\1", value[1:-1])
    return found[1].lower(), value


def parse_prefer(lines: Sequence[bytes]) -> Preferences:
    """What the `Prefer` field lines ask of the proxy. Never an error: malformed elements are skipped.

    The first instance of a preference wins (RFC 7240 §2).
    """
    first: dict[bytes, bytes] = {}
    for element in _elements(lines):
        if named := _named(element):
            first.setdefault(*named)
    asked = first.get(b"respond-async")
    return Preferences(
        respond_async=asked is not None and asked.lower() in (b"", b"true", b"1"),
        wait=_seconds(first.get(b"wait", b"")),
    )


def _seconds(value: bytes) -> int | None:
    if not value.isdigit():
        return None
    digits = value.lstrip(b"0") or b"0"
    return int(digits) if len(digits) < 10 else _LONGEST_WAIT


def other_preferences(lines: Sequence[bytes]) -> bytes | None:
    """The `Prefer` value that stays for U: all elements, malformed ones too, but respond-async and wait, as sent."""
    ours = (b"respond-async", b"wait")
    kept = [element for element in _elements(lines) if (_named(element) or (b"",))[0] not in ours]
    return b", ".join(kept) if kept else None


def _parameter(piece: bytes) -> tuple[bytes, bytes]:
    name, _, value = piece.partition(b"=")
    return name.lower(), value.lower()


def _is_async(piece: bytes) -> bool:
    return _parameter(piece)[0] == b"async"


def mode(query: bytes | None, preferences: Preferences) -> Mode:
    """The mode of an export request by the table of CONTRACT §1. Raises `InvalidAsync`."""
    values = {_parameter(piece)[1] for piece in (query or b"").split(b"&") if _is_async(piece)}
    if not values:
        return Mode.ASYNC if preferences.respond_async else Mode.SYNC
    if values <= _TRUE:
        return Mode.ASYNC
    if values <= _FALSE:
        return Mode.SYNC
    raise InvalidAsync("the async parameter takes true, 1, yes or nothing, or false, 0, no, and must not contradict")


def strip_async(target: bytes) -> bytes:
    """The request target without any `async` query parameter; every other byte stays (CONTRACT §1).

    A query of nothing else goes with its `?`; a bare `?` that was sent stays.
    """
    path, mark, query = target.partition(b"?")
    pieces = query.split(b"&")
    kept = [piece for piece in pieces if not _is_async(piece)]
    return path + mark + b"&".join(kept) if kept else path
