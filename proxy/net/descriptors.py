"""File descriptors: how many there are, and how many of them clients may take (CONTRACT §15
`listen`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

#: Kept back for the stores, the listeners and the log; and for each export that runs.
_OWN = 64
_PER_EXPORT = 4
#: Connections beyond the limit that are told so; further ones are closed at once.
EXTRA_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Share:
    """Connections that clients may have, and that the relay may have to VB365 for them."""

    clients: int
    upstream: int
    #: Descriptors that are kept back.
    reserve: int


def raise_limit() -> int | None:
    """Raise the process's soft limit of descriptors to the hard one. The limit; None if there is
    none that counts.
    """
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS has a lower limit than it says
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if hard == resource.RLIM_INFINITY else hard


def share(limit: int, *, max_running: int, max_connections: int) -> Share:
    """Divide `limit` descriptors so that every client can have a relayed request in flight.

    A relayed request takes two, the client's connection and VB365's, so clients get half of what is
    left at most. `max_connections` 0 is no limit of its own.
    """
    reserve = _OWN + _PER_EXPORT * max_running
    left = max(limit - reserve - EXTRA_CONNECTIONS, 2)
    clients = min(max_connections or left, left // 2)
    return Share(clients, left - clients, reserve)
