"""What a response of VB365 other than the file means for a job, and its message (CONTRACT §5)."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from proxy.core.job import ErrorCode

Fields = Iterable[tuple[bytes, bytes]]

#: The longest message, in characters.
MAX_MESSAGE = 300
#: The longest JSON body that is parsed, in bytes: stack traces of VB365 are shorter. Plain text is
#: quoted only if it is short.
JSON_LIMIT = 256 * 1024
_TEXT_LIMIT = 4 * 1024
#: The members in which servers put the message, the most specific first, in lower case.
#: RESTExceptionInfo (v6, v7, v8) `message`, ASP.NET Web API `ExceptionMessage` and `Message`, RFC
#: 9457 `detail` and `title`, RFC 6749 `error_description`, OData `error.message.value`.
_MEMBERS = ("exceptionmessage", "message", "detail", "error_description", "error", "value", "title")
_MAX_DEPTH = 4
_MARKUP = re.compile(r"\A\s*<[!?a-z]|</[a-z]|<br\b", re.IGNORECASE)
_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cn", "Co", "Cs"))


class Row(NamedTuple):
    """A row for statuses from `first` to `last`. `has_message`: whether the response has a message;
    None for both.
    """

    first: int
    last: int
    has_message: bool | None
    code: ErrorCode
    retryable: bool


#: CONTRACT §3.7, §5: the error of a job after a response other than 200. The first match counts.
TABLE: tuple[Row, ...] = (
    # the client was slow, or there were too many requests: this one is valid
    Row(408, 408, None, ErrorCode.REJECTED, True),
    Row(425, 425, None, ErrorCode.REJECTED, True),
    Row(429, 429, None, ErrorCode.REJECTED, True),
    Row(400, 499, None, ErrorCode.REJECTED, False),
    # a gateway or a restart, whatever its message
    Row(502, 504, None, ErrorCode.ERROR, True),
    # VB365 failed and says why: Outlook is not installed, the session was stopped
    Row(500, 599, True, ErrorCode.ERROR, False),
    Row(0, 999, None, ErrorCode.ERROR, True),
)


def row_of(status: int, message: str | None) -> Row:
    """The row of `TABLE` for a response with this status and the result of `message_of`."""
    known = (None, message is not None)
    return next(
        row for row in TABLE if row.first <= status <= row.last and row.has_message in known
    )


def message_of(content_type: str | None, body: bytes) -> str | None:
    """The message of a response: one line of at most `MAX_MESSAGE` visible characters, or None.

    It is taken from JSON of any Content-Type and from short plain text, never from markup.
    """
    if len(body) > JSON_LIMIT:
        return None
    return next((line for text in _texts(content_type, body) if (line := one_line(text))), None)


def _texts(content_type: str | None, body: bytes) -> Iterator[str]:
    try:
        yield from _within(json.loads(body), _MAX_DEPTH)
    except (ValueError, RecursionError):
        essence = (content_type or "text/plain").partition(";")[0].strip().lower()
        if (
            essence == "text/plain"
            and len(body) <= _TEXT_LIMIT
            and body.lstrip()[:1] not in (b"{", b"[")
        ):
            yield _decoded(body)


def _within(value: Any, depth: int) -> Iterator[str]:
    """The texts in a JSON value that may be the message, the most specific first."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value and depth:
        yield from _within(value[0], depth - 1)
    elif isinstance(value, dict) and depth:
        members = {name.lower(): member for name, member in reversed(value.items())}
        for name in _MEMBERS:
            yield from _within(members.get(name), depth - 1)


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")


def one_line(text: str) -> str | None:
    """The text as one line of at most `MAX_MESSAGE` visible characters. None if it is markup or
    has no letter or digit.
    """
    if _MARKUP.search(text[: 2 * _TEXT_LIMIT]):
        return None
    spaced = "".join(" " if c.isspace() else c for c in text[: 2 * _TEXT_LIMIT])
    visible = " ".join(
        "".join(c for c in spaced if unicodedata.category(c) not in _HIDDEN_CATEGORIES).split()
    )
    if not any(c.isalnum() for c in visible):
        return None
    return visible if len(visible) <= MAX_MESSAGE else visible[: MAX_MESSAGE - 1].rstrip() + "…"


# Secrets of the request that a response repeats.

#: In characters. Any message may contain shorter values.
_SHORTEST_SECRET = 6
#: Bounds the time of the search.
_MOST_SECRETS = 200
_CREDENTIALS = frozenset({b"authorization", b"cookie"})
#: Request fields that contain no secret.
_OPEN = re.compile(
    rb"(?i)host|user-agent|accept(?:-.*)?|content-.*|prefer|expect|date|origin|referer|cache-control"
)
_SCHEMES = frozenset({b"bearer", b"negotiate", b"digest"})
#: System.Text.Json, which VB365 uses, writes these as \u00XX.
_ESCAPED = re.compile(rb"[\"&'+<>`]")


def secrets(fields: Fields, target: bytes) -> list[bytes]:
    """The values of a request that must not be kept if a response repeats them: credentials, values
    of unknown fields and of the query.

    At most `_MOST_SECRETS`, credentials first; returned by length, the longest first, as `masked`
    needs them, with the escaped forms that JSON may contain.
    """
    closed = [(name.lower(), value) for name, value in fields if not _OPEN.fullmatch(name)]
    closed.sort(key=lambda field: field[0] not in _CREDENTIALS)
    found: dict[bytes, None] = {}
    for _, value in closed:
        parts = re.split(rb"[\s;,]+", value)
        found |= dict.fromkeys((value, *parts, *(part.partition(b"=")[2] for part in parts)))
    for pair in target.partition(b"?")[2].split(b"&"):
        raw = pair.partition(b"=")[2]
        found |= dict.fromkeys((raw, unquote_to_bytes(raw.replace(b"+", b" "))))
    hidden = [
        secret
        for secret in found
        if len(secret) >= _SHORTEST_SECRET and secret.lower() not in _SCHEMES
    ]
    hidden = hidden[:_MOST_SECRETS]
    hidden += [_ESCAPED.sub(lambda odd: b"\\u%04X" % ord(odd[0]), secret) for secret in hidden]
    return sorted(set(hidden), key=len, reverse=True)


def masked(content: bytes, hidden: Sequence[bytes]) -> bytes:
    """The content with `***` in place of each secret. The longest secrets must come first."""
    for secret in hidden:
        content = content.replace(secret, b"***")
    return content


def codings(values: Iterable[bytes]) -> list[bytes]:
    """The content codings of a body, in lower case, from all Content-Encoding values.

    `identity` and empty elements are left out (RFC 9110 §8.4.1, §5.6.1).
    """
    named = [element.strip(b" \t").lower() for value in values for element in value.split(b",")]
    return [name for name in named if name not in (b"", b"identity")]
