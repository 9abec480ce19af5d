"""Whether a connection to VB365 serves another request, and whose: decided here for every request
(CONTRACT §12).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from proxy.core.http.heads import Framing, Head, ResponseHead

#: RFC 9110 §9.2.1. Only these go out on a connection that others have used: a race with its end is
#: possible there.
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})

_CHUNKED = Framing.CHUNKED  # looking a member up costs more than it should on the hot path


class Outgoing(NamedTuple):
    """What matters of a request: `body` is True if a byte of one or a chunk goes out, `binding` if
    its credentials authenticate the connection.
    """

    method: bytes
    minor: int
    body: bool
    binding: bool

    @property
    def repeatable(self) -> bool:
        """It may go out on a used connection, and again on another one if that ends unanswered."""
        return not self.body and self.method in SAFE


class Fate(enum.Enum):
    """What becomes of a connection whose answer is whole."""

    CLOSED = "closed"
    SHARED = "shared"
    PRIVATE = "private"


_CLOSED, _SHARED, _PRIVATE = Fate.CLOSED, Fate.SHARED, Fate.PRIVATE


def outgoing(head: Head) -> Outgoing:
    """What matters of the request with this head."""
    return Outgoing(
        head.method, head.minor, head.framing is _CHUNKED or head.length > 0, head.binds
    )


def fate(request: Outgoing, answer: ResponseHead, *, private: bool = False) -> Fate:
    """What becomes of the connection on which `request` got `answer`; `private` if it is one
    client's already.

    Whatever VB365 makes of a body, or of one that it announced and did not send, no other request
    follows it.
    """
    if request.body or not request.minor or not answer.minor or not answer.keep_alive:
        return _CLOSED
    if request.method == b"HEAD" or (answer.status in (204, 304) and _announces_body(answer)):
        return _CLOSED
    return _PRIVATE if private or request.binding or answer.binds else _SHARED


def _announces_body(answer: ResponseHead) -> bool:
    lengths = answer.get_all(b"content-length")
    return lengths not in ([], [b"0"]) or bool(answer.get_all(b"transfer-encoding"))
