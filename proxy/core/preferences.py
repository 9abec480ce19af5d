"""`Prefer` and `?async=`: how a caller asks for an asynchronous export (CONTRACT §1, RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

#: No caller waits longer than this many seconds, so more digits need not be told apart.
_LONGEST_WAIT = 10**9

#: Bytes of all `Prefer` lines together that are read. The element that reaches beyond them, and all
#: after it, count as malformed: they say nothing to the proxy, and VB365 gets them as they were
#: sent.
MAX_PREFER = 8 << 10

# No byte can be matched in two ways (runs of blanks are possessive), so a failing match costs
# linear time.
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EQUALS = rb"[ \t]*+=[ \t]*+"
_PARAMETER = rb"%b(?:%b(?:%b|%b)?)?" % (_TOKEN, _EQUALS, _TOKEN, _QUOTED)
_PREFERENCE = re.compile(
    rb"(%b)(?:%b(%b|%b)?)?(?:[ \t]*+;[ \t]*+(?:%b)?)*"
    % (_TOKEN, _EQUALS, _TOKEN, _QUOTED, _PARAMETER)
)
_ELEMENT = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.?)*(?:"|\Z))+', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)

#: An `async` parameter of a query that ends with `&`, and its value.
_SWITCH = re.compile(rb"(?i)(?:\A|(?<=&))async(?:=([^&]*+))?&")

_TRUE = frozenset((b"", b"true", b"1", b"yes"))
_FALSE = frozenset((b"false", b"0", b"no"))


@dataclass(frozen=True, slots=True)
class Preferences:
    """What `Prefer` says to the proxy: asynchronous or not, and how many seconds the caller waits
    (unclamped).
    """

    respond_async: bool = False
    wait: int | None = None


class Mode(Enum):
    """How an export is answered."""

    ASYNC = "async"
    SYNC = "sync"


class InvalidAsync(ValueError):
    """The `async` query parameter has an unknown value, or is repeated and contradicts itself."""


def _elements(lines: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    """The list's elements, commas inside quotes not splitting, and what is beyond `MAX_PREFER`
    bytes.

    A quote that never closes reaches to the end.
    """
    text = b",".join(lines)
    elements: list[bytes] = []
    # one byte more is read, so that an element that ends at the bound is known to end there
    for found in _ELEMENT.finditer(text, 0, MAX_PREFER + 1):
        if found.end() > MAX_PREFER:
            return elements, text[found.start() :].strip(b" \t")
        if element := found[0].strip(b" \t"):
            elements.append(element)
    return elements, text[MAX_PREFER + 1 :].strip(b" \t,")


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
    """What the `Prefer` field lines ask of the proxy. Never an error: malformed elements are
    skipped.

    The first instance of a preference wins (RFC 7240 §2).
    """
    first: dict[bytes, bytes] = {}
    for element in _elements(lines)[0]:
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
    """The `Prefer` value that stays for VB365, as sent: all elements but respond-async and wait,
    malformed ones too.
    """
    ours = (b"respond-async", b"wait")
    elements, unread = _elements(lines)
    kept = [element for element in elements if (_named(element) or (b"",))[0] not in ours]
    if unread:
        kept.append(unread)
    return b", ".join(kept) if kept else None


def mode(query: bytes | None, preferences: Preferences) -> Mode:
    """The mode of an export request by the table of CONTRACT §1. Raises `InvalidAsync`."""
    values = {value.lower() for value in _SWITCH.findall((query or b"") + b"&")}
    if not values:
        return Mode.ASYNC if preferences.respond_async else Mode.SYNC
    if values <= _TRUE:
        return Mode.ASYNC
    if values <= _FALSE:
        return Mode.SYNC
    raise InvalidAsync(
        "the async parameter takes true, 1, yes or nothing, or false, 0, no, and must not "
        "contradict"
    )


def strip_async(target: bytes) -> bytes:
    """The request target without any `async` query parameter; every other byte stays (CONTRACT §1).

    A query of nothing else goes with its `?`; a bare `?` that was sent stays.
    """
    path, mark, query = target.partition(b"?")
    kept = _SWITCH.sub(b"", query + b"&")
    return path + mark + kept[:-1] if kept else path
