"""The access log: one line for each request (CONTRACT §15, docs/operations.md "Access")."""

from __future__ import annotations

import re

from proxy.core.http.heads import Head
from proxy.core.http.origin import Networks, client_address
from proxy.core.paths import job_of
from proxy.downstream.endings import Ending
from proxy.logs import DirectEvent

_REQUEST = DirectEvent(
    "request",
    logger=__name__,
    fields=(
        *("client", "method", "path", "status", "bytes_in", "bytes_out", "seconds", "lane"),
        *("termination", "request_id", "job"),
    ),
    numbers=("status", "bytes_in", "bytes_out", "seconds"),
    words=("lane", "termination", "request_id"),
)

#: Characters of a method and of a path that are logged.
_LONGEST_METHOD, _LONGEST_PATH = 32, 2000
#: The scheme and the authority of an absolute-form target; the latter may hold a password.
_ORIGIN = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*://[^/?#]*")
_CONTENT_LOCATION = re.compile(rb"(?:\A|\n)Content-Location: ?([^\r\n]*)", re.IGNORECASE)


class AccessLog:
    """Logs the requests of this process's clients. `trusted` are the balancers whose report of the
    client's address counts (CONTRACT §13).

    Nothing of a request is logged but its method, its path and its id.
    """

    def __init__(self, trusted: Networks) -> None:
        self._trusted = trusted

    def log(
        self,
        head: Head | None,
        *,
        peer: bytes,
        request_id: str,
        job: str | None,
        lane: str,
        status: int,
        received: int,
        sent: int,
        seconds: float,
        ending: Ending,
    ) -> None:
        """Log a request that has ended. `head` is None if it was not readable."""
        client: str | None = peer.decode("latin-1")
        if self._trusted and head is not None:
            client = self._reported(head, str(client))
        _REQUEST.log(
            client,
            None if head is None else head.method.decode("latin-1")[:_LONGEST_METHOD],
            None if head is None else path_of(head),
            status,
            received,
            sent,
            round(seconds, 6),
            lane,
            ending,
            request_id,
            job,
        )

    def _reported(self, head: Head, peer: str) -> str | None:
        return client_address(
            peer,
            self._trusted,
            lambda name: [value.decode("latin-1") for value in head.get_all(name.lower().encode())],
        )


def job_in(head: bytes) -> str | None:
    """The id of the job whose resource the response with this head has (Content-Location)."""
    found = _CONTENT_LOCATION.search(head.partition(b"\r\n\r\n")[0])
    return None if found is None else job_of(found[1].decode("latin-1"))


def path_of(head: Head) -> str:
    """The path of the request's target as the client sent it, without an origin and a query."""
    target = head.target
    if not target.startswith(b"/"):
        target = _ORIGIN.sub(b"", target, count=1)
    path = target.partition(b"?")[0].partition(b"#")[0]
    return path.decode("latin-1")[:_LONGEST_PATH]
