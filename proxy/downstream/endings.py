"""How a request ends, for the access log (docs/operations.md "Access")."""

from __future__ import annotations

import enum


class Ending(enum.StrEnum):
    """Why a request has ended."""

    SERVED = "served"  # its response was written to its end
    CLIENT_LEFT = "client-left"  # before the end of its response
    UPSTREAM_CUT = "upstream-cut"  # VB365 gave no response, or broke it off
    TIMED_OUT = "timed-out"  # the client stopped sending or reading, or no connection to VB365
    REFUSED = "refused"  # it was not read to its end
    ABORTED = "aborted"  # by the proxy: a shutdown, or a failure of its own


#: The endings of a relayed request that got a problem of the proxy's own, by its status.
_UNANSWERED = {502: Ending.UPSTREAM_CUT, 504: Ending.TIMED_OUT}


def without_response(status: int) -> Ending:
    """The ending of a relayed request whose client got a problem with this status instead of a
    response of the upstream.
    """
    return _UNANSWERED.get(status, Ending.ABORTED)
