"""Sessions of the admin pages: a cookie replaces the token for a time (CONTRACT §16)."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable

COOKIE = "vb365_async_proxy_admin"
#: Seconds until a session ends.
LENGTH = 12 * 3600.0
#: Sessions that may exist. The oldest one ends first.
_MOST = 1_000


class Sessions:
    """Sessions in memory: all end with the process. A session is a random value, of which only the
    hash is kept. `now` returns seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def begin(self) -> str:
        """Begin a session. Return the value of its cookie."""
        value = secrets.token_urlsafe(32)
        self._ends[_digest(value)] = self._now() + LENGTH
        if len(self._ends) > _MOST:
            self._ends.popitem(last=False)
        return value

    def valid(self, value: str | None) -> bool:
        """Report whether the value is that of a session that has not ended."""
        if value is None:
            return False
        ends = self._ends.get(_digest(value))
        return ends is not None and self._now() < ends

    def end(self, value: str | None) -> None:
        """End the session. Idempotent."""
        if value is not None:
            self._ends.pop(_digest(value), None)


def cookie_of(lines: list[str]) -> str | None:
    """Return the session's value in the Cookie fields of a request, None without one.

    Other servers of the same host set cookies as they like, for all ports (RFC 6265 §8.5):
    `http.cookies` ignores all cookies of a line in which it finds one of those malformed.
    """
    for line in lines:
        for pair in line.split(";"):
            name, mark, value = pair.strip(" \t").partition("=")
            if mark and name == COOKIE:
                return value
    return None


def set_cookie(value: str, *, secure: bool) -> str:
    """Return the value of Set-Cookie for a new session."""
    return f"{COOKIE}={value}; Max-Age={LENGTH:.0f}; {_attributes(secure=secure)}"


def drop_cookie(*, secure: bool) -> str:
    """Return the value of Set-Cookie that removes the cookie."""
    return f"{COOKIE}=; Max-Age=0; {_attributes(secure=secure)}"


def _attributes(*, secure: bool) -> str:
    return "Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()
