"""`Prefer` and `?async=`: how a caller requests an asynchronous export (CONTRACT §1, RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

#: Seconds. Longer waits are not distinguished.
_LONGEST_WAIT = 10**9

#: How many bytes of all `Prefer` lines together are parsed. The element that extends beyond them
#: and all after it count as malformed: the proxy ignores them, and VB365 receives them as sent.
MAX_PREFER = 8 << 10

# No byte can be matched in two ways (runs of blanks are possessive), so that a failing match takes
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
    """The preferences for the proxy: whether to respond asynchronously, and how many seconds the
    caller waits (unclamped).
    """

    respond_async: bool = False
    wait: int | None = None

    def applied(self, max_wait: float, *, file: bool) -> str | None:
        """The value of Preference-Applied (CONTRACT §3): what was sent, with the wait clamped.
        `file`: the response is the file.
        """
        applied = ["respond-async"] if self.respond_async and not file else []
        if self.wait is not None:
            applied.append(f"wait={int(min(self.wait, max_wait))}")
        return ", ".join(applied) or None


class Mode(Enum):
    """Whether an export becomes a job or is forwarded."""

    ASYNC = "async"
    SYNC = "sync"


class InvalidAsync(ValueError):
    """The `async` query parameter has an unknown value, or several that contradict each other."""


def _elements(lines: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    """The elements of the list, and the rest beyond `MAX_PREFER` bytes.

    Commas inside quotes do not split. A quote that is not closed extends to the end.
    """
    text = b",".join(lines)
    elements: list[bytes] = []
    # one more byte shows whether an element ends at the bound
    for found in _ELEMENT.finditer(text, 0, MAX_PREFER + 1):
        if found.end() > MAX_PREFER:
            return elements, text[found.start() :].strip(b" \t")
        if element := found[0].strip(b" \t"):
            elements.append(element)
    return elements, text[MAX_PREFER + 1 :].strip(b" \t,")


def _named(element: bytes) -> tuple[bytes, bytes] | None:
    """The name of the preference in lower case and its unquoted value. None if malformed."""
    found = _PREFERENCE.fullmatch(element)
    if found is None:
        return None
    value: bytes = found[2] or b""
    if value.startswith(b'"'):
        value = _ESCAPED.sub(rb"\1", value[1:-1])
    return found[1].lower(), value


def parse_prefer(lines: Sequence[bytes]) -> Preferences:
    """Parse the `Prefer` field lines. Malformed elements are skipped, never an error.

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
    """The `Prefer` value for VB365: all elements but respond-async and wait as sent, including
    malformed ones. None if nothing remains.
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
        "the async parameter must be true, 1, yes or empty, or false, 0 or no, and must not "
        "contradict itself"
    )


def strip_async(target: bytes) -> bytes:
    """The request target without `async` query parameters. All other bytes are kept (CONTRACT §1).

    A query that becomes empty is removed with its `?`; a bare `?` that was sent is kept.
    """
    path, mark, query = target.partition(b"?")
    kept = _SWITCH.sub(b"", query + b"&")
    return path + mark + kept[:-1] if kept else path
