"""Whether a connection to VB365 may be used for another request, and for which client (CONTRACT
§12).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from proxy.core.http.heads import Framing, Head, ResponseHead

#: RFC 9110 §9.2.1. Only these are sent on a used connection, which may be closing at that moment.
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})

_CHUNKED = Framing.CHUNKED  # looking up a member of an enumeration is too slow for the hot path


class Outgoing(NamedTuple):
    """What decides about reuse on the side of the request. `body`: bytes of a body or a chunk are
    sent; `binding`: its credentials authenticate the connection.
    """

    method: bytes
    minor: int
    body: bool
    binding: bool

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent on a used connection, and again on another one if that closes
        without a response.
        """
        return not self.body and self.method in SAFE


class Fate(enum.Enum):
    """What to do with a connection after a complete response."""

    CLOSED = "closed"
    SHARED = "shared"
    PRIVATE = "private"


_CLOSED, _SHARED, _PRIVATE = Fate.CLOSED, Fate.SHARED, Fate.PRIVATE


def outgoing(head: Head) -> Outgoing:
    """What decides about reuse in the request with this head."""
    return Outgoing(
        head.method, head.minor, head.framing is _CHUNKED or head.length > 0, head.binds
    )


def fate(request: Outgoing, response: ResponseHead, *, private: bool = False) -> Fate:
    """What to do with the connection on which `request` got this response. `private`: it
    already belongs to one client.

    No request follows a body, or a body that VB365 announced and did not send, however VB365
    interprets it.
    """
    if request.body or not request.minor or not response.minor or not response.keep_alive:
        return _CLOSED
    if request.method == b"HEAD" or (response.status in (204, 304) and _announces_body(response)):
        return _CLOSED
    return _PRIVATE if private or request.binding or response.binds else _SHARED


def _announces_body(response: ResponseHead) -> bool:
    lengths = response.get_all(b"content-length")
    return lengths not in ([], [b"0"]) or bool(response.get_all(b"transfer-encoding"))
