"""Misbehaviour on demand: which requests it hits, and what it does to their answers (docs/upstream.md §7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What happens to an answer; None leaves it as it is. Bytes are counted in the body of this answer.

    For every request, in this order: `expire_token` (of the caller; so the answer is 401), `latency` seconds, `hold`
    (wait for `release`; an export holds while it generates, for any number of seconds), `hang` (never answer),
    `reset` (before the head), `malformed` (this text instead of a head, then close), `status` with `body` and
    `content_type` instead of the true answer. `headers` are added or replace fields of that name, None drops one;
    `set_cookies` are added.

    For exports: the file (`size`, `kind`, `seed`, `members`), `generate` (silent seconds), `outlook_missing` (500
    after them), `stop_session` (half-way through them), `event` (the word the event ends with), `accepted` (202 of a
    future VB365), and the transfer: `rate` (bytes per second), `cut_at` (reset there; with `cut` "close" an orderly
    end instead), `stop_session_at`, `stall_at` (silent for `stall` seconds, or until `release`), `framing`
    (length, chunked, close), `unterminated` (a chunked body without its end), `lie` (added to Content-Length),
    `ignore_range`, `content_range` (literal), `etag` (literal), `disposition` (literal), `gzip`.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Effects):
    """Effects on the requests whose raw target holds `path` (any case) and, if given, whose method is `method`.

    The first `skip` matches are left alone, then the next `count` are hit; None: until the faults are cleared.
    """

    path: str = ""
    method: str | None = None
    skip: int = 0
    count: int | None = None


_CHOICES = {
    "framing": ("length", "chunked", "close"),
    "cut": ("reset", "close"),
    "event": ("Running", "Success", "Warning", "Failed", "Cancelled", "Skipped"),
    "kind": ("pst", "msg", "html", "txt", "pdf", "csv", "zip", "pst.zip", "msg.zip"),
}
_NAMES = tuple(member.name for member in fields(Effects))
_TYPES = get_type_hints(Fault)


def _problem(name: str, value: Any) -> str | None:
    if name not in _TYPES:
        return f"unknown key {name!r}"
    if name in _CHOICES and value is not None and value not in _CHOICES[name]:
        return f"{name!r} must be one of {', '.join(_CHOICES[name])}"
    wanted = tuple(getattr(kind, "__origin__", kind) for kind in get_args(_TYPES[name]) or (_TYPES[name],))
    number = float in wanted and isinstance(value, int) and not isinstance(value, bool)
    if not number and type(value) not in wanted:
        return f"{name!r} must be {' or '.join('null' if kind is type(None) else kind.__name__ for kind in wanted)}"
    if name == "headers" and not all(isinstance(text, str | None) for text in (value or {}).values()):
        return "'headers' must map names to strings or null"
    if name == "set_cookies" and not all(isinstance(text, str) for text in value or []):
        return "'set_cookies' must be a list of strings"
    if type(value) in (int, float) and value < 0 and name != "lie":
        return f"{name!r} must not be negative"
    return None


def parse(raw: Any) -> Fault:
    """A fault from the control endpoint's JSON. Raises ValueError that names every problem."""
    if not isinstance(raw, Mapping):
        raise ValueError("a fault is a JSON object")  # noqa: TRY004  # one kind of error for all bad input
    problems = [problem for name, value in raw.items() if (problem := _problem(name, value))]
    if problems:
        raise ValueError("; ".join(problems) + f" (keys: {', '.join(_TYPES)})")
    return Fault(**raw)


class Faults:
    """The faults of one stand-in. Where several hit a request the later one's effects win, key by key."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __len__(self) -> int:
        return len(self._faults)

    def add(self, fault: Fault) -> None:
        """From now on. Raises ValueError on a value that no answer can have."""
        parse({name: getattr(fault, name) for name in _TYPES})
        self._faults.append(fault)

    def clear(self) -> None:
        """Behave."""
        self._faults = []

    def take(self, method: str, target: str) -> Effects:
        """The effects on this request, counted."""
        merged: dict[str, Any] = {}
        kept = []
        for fault in self._faults:
            hit, left = _spend(fault, method, target)
            if hit:
                merged |= {name: value for name in _NAMES if (value := getattr(fault, name)) is not None}
            if left is not None:
                kept.append(left)
        self._faults = kept
        return Effects(**merged)


def _spend(fault: Fault, method: str, target: str) -> tuple[bool, Fault | None]:
    """Whether the fault hits this request, and what is left of it afterwards."""
    if fault.path.lower() not in target.lower() or (fault.method or method).upper() != method.upper():
        return False, fault
    if fault.skip:
        return False, replace(fault, skip=fault.skip - 1)
    if fault.count is None:
        return True, fault
    return fault.count > 0, replace(fault, count=fault.count - 1) if fault.count > 1 else None
