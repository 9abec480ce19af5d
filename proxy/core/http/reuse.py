"""Whether a connection to VB365 may be used for another request, and for which client (CONTRACT
§12).
"""

from __future__ import annotations

import enum

from proxy.core.http.heads import Framing, Head, ResponseHead

#: RFC 9110 §9.2.1. Only these are sent on a used connection, which may be closing at that moment.
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})

_CHUNKED = Framing.CHUNKED  # looking up a member of an enumeration is too slow for the hot path


def is_repeatable(request: Head) -> bool:
    """Whether the request may be sent on a used connection, and again on another one if that closes
    without a response.
    """
    return request.method in SAFE and not request.length and request.framing is not _CHUNKED


class Fate(enum.Enum):
    """What to do with a connection after a complete response."""

    CLOSED = "closed"
    SHARED = "shared"
    PRIVATE = "private"


_CLOSED, _SHARED, _PRIVATE = Fate.CLOSED, Fate.SHARED, Fate.PRIVATE


def fate(request: Head, response: ResponseHead, *, private: bool = False) -> Fate:
    """What to do with the connection on which `request` got this response. `private`: it
    already belongs to one client.

    No request follows a body, or a body that VB365 announced and did not send, however VB365
    interprets it.
    """
    if request.length or request.framing is _CHUNKED or not request.minor:
        return _CLOSED
    if not response.minor or not response.keep_alive:
        return _CLOSED
    if request.method == b"HEAD" or (response.status in (204, 304) and _announces_body(response)):
        return _CLOSED
    return _PRIVATE if private or request.binds or response.binds else _SHARED


def _announces_body(response: ResponseHead) -> bool:
    lengths = response.get_all(b"content-length")
    return lengths not in ([], [b"0"]) or bool(response.get_all(b"transfer-encoding"))
