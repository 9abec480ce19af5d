"""The limit on file descriptors, and the share of it for clients (CONTRACT §15 `listen`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass

#: Descriptors reserved for stores, listeners and the log, and for each running export.
_OWN = 64
_PER_EXPORT = 4
#: The part of what is not reserved for access checks, and the same for preflights: a kick-off may
#: need one of each at a time. More than `MAX_QUESTIONS` at a time would only load VB365.
_QUESTIONS, MAX_QUESTIONS = 1 / 10, 128
#: The part for the connections of the admin listener, and their maximum number.
_ADMIN, MAX_ADMIN = 1 / 32, 256
#: The part for idle connections to VB365, at least.
_IDLE = 1 / 8
#: Connections over the limit that get a 503; further ones are closed at once.
EXTRA_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Share:
    """The maximum number of connections of clients and of the admin listener, and of connections to
    VB365: the relay's, how many of these may be idle, those of access checks, and as many of
    preflights. 0 is no limit.
    """

    clients: int
    admin: int
    upstream: int
    idle: int
    questions: int
    #: Reserved descriptors.
    reserve: int


def raise_limit() -> int | None:
    """Raise the process's soft limit on descriptors to the hard limit, and return it; None if there
    is no limit.
    """
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # the limit of macOS is lower than it reports
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if hard == resource.RLIM_INFINITY else hard


def share(limit: int, *, max_running: int, max_connections: int, others: int = 0) -> Share:
    """Divide `limit` descriptors so that every client can have a request in flight, and every
    client of `others`, as many processes with as many clients, one that is handed over.

    A request takes two: its connection, and another to VB365 or the file that it downloads. Idle
    connections to VB365 are beside them. `max_connections` 0 means no further limit.
    """
    reserve = _OWN + _PER_EXPORT * max_running
    left = max(limit - reserve - EXTRA_CONNECTIONS, 4)
    questions = max(min(int(left * _QUESTIONS), MAX_QUESTIONS), 1)
    admin = max(min(int(left * _ADMIN), MAX_ADMIN), 1)
    left -= 2 * questions + admin
    for_each = 2 * (1 + others)
    clients = min(max_connections or left, max(int(left * (1 - _IDLE)) // for_each, 1))
    upstream = max(left - clients * (1 + others), 1)
    idle = max(left - clients * for_each, 1)
    return Share(clients, admin, upstream, idle, questions, reserve)
