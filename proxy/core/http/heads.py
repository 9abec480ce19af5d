"""A strict parser of HTTP/1.x heads (CONTRACT §12, last paragraph).

A head that two implementations could read differently is rejected. Fields are kept as received.
"""

from __future__ import annotations

import enum
import re
import sys
from dataclasses import dataclass
from functools import lru_cache

from proxy.core.http.authority import names_host
from proxy.core.http.binding import binds
from proxy.core.http.fields import (
    PER_FIELD,
    TOKEN,
    VALUE,
    Field,
    elements,
    runs_without,
    split_fields,
    values_of,
)

#: Limits in bytes and lines. CONTRACT §12: fields of 64 KiB and 1,000 fields pass, a head has at
#: most 256 KiB. Lists that are parsed have at most `MAX_LINE`: 256 KiB take 60 ms.
MAX_HEAD = 1 << 18
MAX_LINE = (1 << 16) + 1024
MAX_FIELDS = 2048
#: Interim (1xx) responses before the final one (CONTRACT §12).
MAX_INTERIM = 100

_HTTP = b"HTTP/1."
#: RFC 9112 §3.2: origin-form, absolute-form, asterisk-form. No other form is accepted.
_TARGET = rb"(?:/|[A-Za-z][A-Za-z0-9+\-.]*+://)[\x21-\x7e\x80-\xff]*+|\*"
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") (" + _TARGET + rb") HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (" + VALUE + rb"))?")
_FIELDS = re.compile(rb"(?:" + TOKEN + rb":" + VALUE + rb"\r\n)*+")
#: The fields that decide framing and connections, and X-Request-Id; each line must follow an LF.
_SPECIAL = re.compile(
    rb"(?i)\n(c(?:onnection|ontent-length)|proxy-connection|keep-alive|t(?:e|ransfer-encoding)|upgrade|host|expect|x-request-id)"
    rb":[ \t]*+([^\r]*+)"
)
#: RFC 3986 §3.2: the value of a Host field, which may be empty (RFC 9110 §7.2).
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%_~\-]++\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*+)(?::[0-9]{0,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
#: What no head can contain: control bytes, bare CR, bare LF. Three searches are ten times as fast
#: as one; a pattern that begins with the LF is faster than one with what must precede it.
_NEVER = (
    re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    re.compile(rb"\r[^\n]"),
    re.compile(rb"\n(?<!\r\n)"),
)

#: RFC 9110 §7.6.1. Transfer-Encoding is kept: it can only be `chunked`, and the body stays chunked.
_HOPS = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"te", b"upgrade"})
#: Connection must not name these, which frame or route the message.
_UNDROPPABLE = frozenset({b"content-length", b"transfer-encoding", b"host"})
_NONE: frozenset[bytes] = frozenset()


class MalformedMessage(Exception):
    """The message is malformed or ambiguous. The text says why, and contains no byte of the
    message.
    """


class HeadTooLarge(MalformedMessage):
    """The head is longer than `MAX_HEAD`."""

    def __init__(self) -> None:
        super().__init__("the head is too large")


class Framing(enum.Enum):
    """How the end of a body is determined (RFC 9112 §6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


_NO_BODY = Framing.NONE  # looking up a member of an enumeration is too slow for the hot path


class _Lines:
    """The field lines of a head."""

    __slots__ = ()
    block: bytes

    @property
    def fields(self) -> tuple[Field, ...]:
        """Names and values of all field lines as received, in order, without white space around
        values.
        """
        return split_fields(self.block)

    @property
    def size(self) -> int:
        """The bytes of memory that its block needs together with `fields`."""
        return len(self.block) + PER_FIELD * self.block.count(b"\n")

    def get_all(self, name: bytes) -> list[bytes]:
        """The values of the fields with the lower-case name `name`, in order."""
        return values_of(self.fields, name)


@dataclass(slots=True)  # a frozen one takes three times as long to make
class Head(_Lines):
    """A request's head. `minor` is the HTTP/1 minor version, `length` the body's length for
    `Framing.LENGTH`.

    `block` holds the raw field lines; `kept` the end-to-end ones (the names that Connection lists
    may take twenty times their length in memory, and are not kept); `host` the Host value;
    `upgrade` the value of an Upgrade that Connection announces; `binds` is True if a field
    authenticates the connection (NTLM, Negotiate), `names_id` if it has an X-Request-Id. Only `id`
    changes, the request's id once somebody has asked for it, and `kept`, empty once it is relayed.
    """

    method: bytes
    target: bytes
    minor: int
    block: bytes
    framing: Framing
    length: int
    keep_alive: bool
    kept: bytes
    host: bytes | None
    expect_continue: bool
    upgrade: bytes | None
    binds: bool
    names_id: bool
    id: str | None = None

    @property
    def content_length(self) -> int | None:
        """The length of the body in bytes. None for a chunked body."""
        return None if self.framing is Framing.CHUNKED else self.length


@dataclass(slots=True)
class ResponseHead(_Lines):
    """A response's head; like `Head`. `length` counts body bytes that follow, so it is 0 for a
    response to HEAD.
    """

    status: int
    reason: bytes
    minor: int
    block: bytes
    framing: Framing
    length: int
    keep_alive: bool
    kept: bytes
    upgrade: bytes | None
    binds: bool


def find_end(buffer: bytes | bytearray, start: int = 0, searched: int = 0) -> int:
    """The offset after the head that begins at `start`, or -1 if more bytes are needed.

    `searched` bytes of the buffer were examined by an earlier call. Raises `MalformedMessage` as
    soon as the bytes cannot become a head, without waiting for a time-out.
    """
    end = buffer.find(b"\r\n\r\n", searched - 3 if searched > start + 3 else start)
    if end >= 0:
        if end + 4 - start > MAX_HEAD:
            raise HeadTooLarge
        return end + 4
    if _impossible(buffer, max(start, searched - 1)):
        raise MalformedMessage(_WHY_NEVER)
    if buffer.startswith(b"\r\n", start):
        raise MalformedMessage("a head begins with an empty line")
    if len(buffer) - start > MAX_HEAD:
        raise HeadTooLarge
    return -1


def find_response_end(buffer: bytes | bytearray, searched: int = 0) -> int:
    """Like `find_end` for a response. Also raises `MalformedMessage` as soon as the bytes of an
    incomplete head cannot become an HTTP/1 response.
    """
    end = find_end(buffer, 0, searched)
    if end < 0 and not buffer.startswith(_HTTP) and not _HTTP.startswith(buffer):
        raise MalformedMessage("it does not begin with an HTTP/1 status line")
    return end


def _impossible(buffer: bytes | bytearray, start: int = 0) -> bool:
    return any(never.search(buffer, start) for never in _NEVER)


@dataclass(slots=True)
class _Facts:
    """The facts of a block of field lines, without the values of other fields.

    `framing` is None if no field is about a body. `runs` are start and end offsets of the
    lines that are forwarded, None for all. `host_fault`: Host is not one valid host.
    """

    framing: Framing | None
    length: int
    keep_alive: bool
    runs: tuple[tuple[int, int], ...] | None
    host: bytes | None
    host_fault: bool
    expect_continue: bool
    upgrade: bytes | None
    binds: bool
    names_id: bool


def parse_request(raw: bytes, *, most: int = MAX_FIELDS) -> Head:
    """Parse a request head, including its empty line. Raises `MalformedMessage`."""
    end = raw.find(b"\r\n")
    match = _REQUEST_LINE.fullmatch(raw, 0, end)
    if match is None or raw[-4:] != b"\r\n\r\n":
        raise MalformedMessage(_why_no_request(raw))
    method, target, version = match.groups()
    if end > MAX_LINE:
        raise MalformedMessage("the request target is too long")
    if method == b"CONNECT":
        raise MalformedMessage("CONNECT is not supported")
    minor = 1 if version == b"1" else 0
    block = raw[end + 2 : -2]
    facts = _facts_of(block, minor, most)
    if facts.host_fault or (minor and facts.host is None):
        raise MalformedMessage(
            "Host is not one valid host" if facts.host_fault else "Host is missing"
        )
    if not target.startswith(b"/") and not names_host(target, facts.host):
        raise MalformedMessage("the target names another host than the Host field")
    return Head(
        method,
        target,
        minor,
        block,
        facts.framing or _NO_BODY,
        facts.length,
        facts.keep_alive,
        block if facts.runs is None else _kept(block, facts.runs),
        facts.host,
        facts.expect_continue,
        facts.upgrade,
        facts.binds,
        facts.names_id,
    )


def parse_response(raw: bytes, method: bytes) -> ResponseHead:
    """Parse the head of a response to a `method` request, including its empty line. Raises
    `MalformedMessage`.
    """
    end = raw.find(b"\r\n")
    line = (_known_status_line if end <= _SHORT_LINE else _status_line)(raw[:end])
    if line is None or raw[-4:] != b"\r\n\r\n":
        raise MalformedMessage(_why_no_response(raw))
    minor, status, reason = line
    block = raw[end + 2 : -2]
    facts = _facts_of(block, minor)
    framing, length = facts.framing, facts.length
    if method == b"HEAD" or status < 200 or status in (204, 304):
        framing, length = _NO_BODY, 0
    return ResponseHead(
        status,
        reason,
        minor,
        block,
        framing or Framing.CLOSE,
        length,
        facts.keep_alive and framing is not None,
        block if facts.runs is None else _kept(block, facts.runs),
        facts.upgrade,
        facts.binds,
    )


def _status_line(line: bytes) -> tuple[int, int, bytes] | None:
    """Minor version, status and reason; None if it is not a status line."""
    match = _STATUS_LINE.fullmatch(line)
    return None if match is None else (int(match[1]), int(match[2]), match[3] or b"")


#: A server uses few status lines. Those of at most `_SHORT_LINE` bytes are remembered.
_SHORT_LINE = 64
_known_status_line = lru_cache(256)(_status_line)


def _kept(block: bytes, runs: tuple[tuple[int, int], ...]) -> bytes:
    """The lines of `runs`; two of them are by far the most common."""
    if len(runs) == 2:
        (start, end), (start2, end2) = runs
        return block[start:end] + block[start2:end2]
    return b"".join([block[start:end] for start, end in runs])


#: Clients and servers repeat themselves, so the facts of most blocks are known from an earlier one.
#: A block is recognised by its length and its hash, a SipHash with a random key of this process
#: (PEP 456), so that no credential stays in memory longer than its request. Do not set
#: PYTHONHASHSEED in production: 0 turns this off. The facts of a thousand blocks of at most
#: `_REMEMBERED` bytes take less than 10 MB: only facts with few `runs` are kept.
_REMEMBERED, _REMEMBERED_BLOCKS, _REMEMBERED_RUNS = 4096, 1024, 16
_KEYED = sys.flags.hash_randomization == 1
_remembered: dict[tuple[int, int, int], _Facts] = {}


def _facts_of(block: bytes, minor: int, most: int = MAX_FIELDS) -> _Facts:
    if len(block) > _REMEMBERED or not _KEYED:
        return _facts(block, minor, most)
    key = (hash(block), len(block), minor)
    facts = _remembered.get(key)
    if facts is None:
        facts = _facts(block, minor, most)
        if len(facts.runs or ()) <= _REMEMBERED_RUNS:
            if len(_remembered) >= _REMEMBERED_BLOCKS:
                del _remembered[next(iter(_remembered))]
            _remembered[key] = facts
    return facts


def _facts(block: bytes, minor: int, most: int) -> _Facts:
    if not _FIELDS.fullmatch(block):
        raise MalformedMessage(_WHY_NEVER if _impossible(block) else _WHY_NO_FIELDS)
    if block.count(b"\n") > most:
        raise MalformedMessage("the head has too many fields")
    special = _special(b"\n" + block)
    if sum(len(v) for name in (b"connection", b"expect") for v in special.get(name, ())) > MAX_LINE:
        raise MalformedMessage("a list is too long")
    connection = _connection(special)
    framing, length = _framing(special, minor, connection)
    hops = connection | _HOPS.intersection(special)
    upgrade, hosts = special.get(b"upgrade", ()), special.get(b"host", ())
    return _Facts(
        framing,
        length,
        b"close" not in connection and (minor == 1 or b"keep-alive" in connection),
        runs_without(block, hops) if hops else None,
        hosts[0] if hosts else None,
        len(hosts) > 1 or (len(hosts) == 1 and not _HOST.fullmatch(hosts[0])),
        minor == 1 and b"100-continue" in elements(special.get(b"expect", [])),
        upgrade[0] if minor == 1 and len(upgrade) == 1 and b"upgrade" in connection else None,
        binds(block),
        b"x-request-id" in special,
    )


def _special(raw: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in _SPECIAL.findall(raw):
        found.setdefault(name.lower(), []).append(value.rstrip(b" \t"))
    return found


def _connection(special: dict[bytes, list[bytes]]) -> frozenset[bytes]:
    values = special.get(b"connection")
    return frozenset(elements(values)) if values else _NONE


def _framing(
    special: dict[bytes, list[bytes]], minor: int, connection: frozenset[bytes]
) -> tuple[Framing | None, int]:
    """RFC 9112 §6.3. What a recipient may handle in several ways is rejected. The framing is None
    if no field is about a body.
    """
    if not connection.isdisjoint(_UNDROPPABLE):
        raise MalformedMessage("Connection names a field that must not be dropped")
    lengths, codings = special.get(b"content-length"), special.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise MalformedMessage("Content-Length and Transfer-Encoding are both present")
        if minor == 0:
            raise MalformedMessage("Transfer-Encoding is not part of HTTP/1.0")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise MalformedMessage("Transfer-Encoding is not exactly chunked")
        return Framing.CHUNKED, 0
    if lengths is None:
        return None, 0
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        raise MalformedMessage("Content-Length is not one decimal number")
    return Framing.LENGTH, int(lengths[0])


def _why_no_request(raw: bytes) -> str:
    if _impossible(raw):
        return _WHY_NEVER
    if re.match(TOKEN + rb" [^ \t\r]+ HTTP/(?!1\.[01]\r)", raw):
        return "the HTTP version is not 1.0 or 1.1"
    return "the request line is not a method, a target and a version"


def _why_no_response(raw: bytes) -> str:
    return _WHY_NEVER if _impossible(raw) else "the status line is malformed"


_WHY_NEVER = "the head contains a control byte or a bare CR or LF"
_WHY_NO_FIELDS = "a field line is malformed: it is folded, has no colon, or its name is not a token"
