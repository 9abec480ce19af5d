"""Faults on demand: which requests they affect, and how (docs/upstream.md §7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What happens to a response. None means no effect.

    Byte counts are counts of bytes in the body of this response.

    Any request, in the order of application:

    `expire_token`: expire the access token of the caller, which gets 401.
    `latency`: delay the response by this many seconds.
    `hold`: suspend the response until `release`; an export is suspended while it generates.
    `hang`: never respond.
    `reset`: reset the connection before the response.
    `malformed`: send this text instead of a response and close the connection.
    `status`, `body`, `content_type`: send this response instead of the normal one.
    `headers`: add or replace these fields; the value null removes a field.
    `set_cookies`: add a Set-Cookie field for each of these values.

    Generation of an export:

    `size` (bytes), `kind`, `seed`, `members` (of a ZIP): the file to generate.
    `generate`: seconds of silence before the response.
    `outlook_missing`: fail with 500 after the generation.
    `stop_session`: stop the restore session halfway through the generation.
    `event`: the final status of the session's event.
    `accepted`: respond 202, as a future VB365 version might.

    Transfer of an export:

    `rate`: bytes per second.
    `cut_at`: end the body at this byte count, with a reset or, if `cut` is "close", a close.
    `stop_session_at`: stop the restore session at this byte count.
    `stall_at`: pause at this byte count for `stall` seconds, or until `release`.
    `framing`: "length", "chunked" or "close" (the end of the connection ends the body).
    `unterminated`: omit the last chunk of a chunked body.
    `lie`: a number to add to Content-Length.
    `ignore_range`: send the whole file in response to a Range request.
    `content_range`, `etag`, `disposition`: the literal value of that response field.
    `gzip`: send the body with Content-Encoding gzip.
    """

    expire_token: bool | None = None
    latency: float | None = None
    hold: bool | None = None
    hang: bool | None = None
    reset: bool | None = None
    malformed: str | None = None
    status: int | None = None
    body: str | None = None
    content_type: str | None = None
    headers: dict[str, str | None] | None = None
    set_cookies: list[str] | None = None

    size: int | None = None
    kind: str | None = None
    seed: int | None = None
    members: int | None = None
    generate: float | None = None
    outlook_missing: bool | None = None
    stop_session: bool | None = None
    event: str | None = None
    accepted: bool | None = None

    rate: float | None = None
    cut_at: int | None = None
    cut: str | None = None
    stop_session_at: int | None = None
    stall_at: int | None = None
    stall: float | None = None
    framing: str | None = None
    unterminated: bool | None = None
    lie: int | None = None
    ignore_range: bool | None = None
    content_range: str | None = None
    etag: str | None = None
    disposition: str | None = None
    gzip: bool | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the effects."""
        return tuple(name for name in EFFECTS if getattr(self, name) is not None)


#: The names of all effects.
EFFECTS = tuple(member.name for member in fields(Effects))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Effects):
    """Effects on the requests whose raw target contains `path`, ignoring case.

    `method`, if set, must match too. The first `skip` matching requests are not affected; the next
    `count` are, or all of them if `count` is None.
    """

    path: str = ""
    method: str | None = None
    skip: int = 0
    count: int | None = None


#: The values of the members that have a fixed set of them.
CHOICES = {
    "framing": ("length", "chunked", "close"),
    "cut": ("reset", "close"),
    "event": ("Running", "Success", "Warning", "Failed", "Cancelled", "Skipped"),
    "kind": ("pst", "msg", "html", "txt", "pdf", "csv", "zip", "pst.zip", "msg.zip"),
}
#: The members of a fault and their types.
TYPES = get_type_hints(Fault)


def _problem(name: str, value: Any) -> str | None:
    """Return what is wrong with a member of a fault, or None."""
    if name not in TYPES:
        return f"unknown key {name!r}"
    if name in CHOICES and value is not None and value not in CHOICES[name]:
        return f"{name!r} must be one of {', '.join(CHOICES[name])}"
    types = get_args(TYPES[name]) or (TYPES[name],)
    wanted = tuple(getattr(kind, "__origin__", kind) for kind in types)
    int_for_float = float in wanted and isinstance(value, int) and not isinstance(value, bool)
    if not int_for_float and type(value) not in wanted:
        names = ("null" if kind is type(None) else kind.__name__ for kind in wanted)
        return f"{name!r} must be {' or '.join(names)}"
    texts = (value or {}).values() if name == "headers" else ()
    if not all(isinstance(text, str | None) for text in texts):
        return "'headers' must map names to strings or null"
    if name == "set_cookies" and not all(isinstance(text, str) for text in value or []):
        return "'set_cookies' must be a list of strings"
    if type(value) in (int, float) and value < 0 and name != "lie":
        return f"{name!r} must not be negative"
    return None


def parse(raw: Any) -> Fault:
    """Return the fault that a JSON document describes.

    Raises ValueError, whose message lists all problems.
    """
    if not isinstance(raw, Mapping):
        raise ValueError("a fault is a JSON object")  # noqa: TRY004  # malformed input is always ValueError
    problems = [problem for name, value in raw.items() if (problem := _problem(name, value))]
    if problems:
        raise ValueError("; ".join(problems) + f" (keys: {', '.join(TYPES)})")
    return Fault(**raw)


class Faults:
    """The active faults.

    If several affect a request, each effect comes from the fault that was added last.
    """

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __len__(self) -> int:
        return len(self._faults)

    def add(self, fault: Fault) -> None:
        """Add a fault. Raises ValueError for an invalid member."""
        parse({name: getattr(fault, name) for name in TYPES})
        self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        self._faults = []

    def take(self, method: str, target: str) -> Effects:
        """Return the effects on this request and count it as a match."""
        merged: dict[str, Any] = {}
        kept = []
        for fault in self._faults:
            affected, remaining = _match(fault, method, target)
            if affected:
                merged |= {name: getattr(fault, name) for name in fault.names}
            if remaining is not None:
                kept.append(remaining)
        self._faults = kept
        return Effects(**merged)


def _match(fault: Fault, method: str, target: str) -> tuple[bool, Fault | None]:
    """Return whether the fault affects this request, and the fault with its counters updated.

    The fault is None when its count is used up.
    """
    if fault.path.lower() not in target.lower():
        return False, fault
    if (fault.method or method).upper() != method.upper():
        return False, fault
    if fault.skip:
        return False, replace(fault, skip=fault.skip - 1)
    if fault.count is None:
        return True, fault
    return fault.count > 0, replace(fault, count=fault.count - 1) if fault.count > 1 else None
