"""The access log: one line for each request (CONTRACT §15, docs/operations.md "Access")."""

from __future__ import annotations

import re

from proxy.core.http.heads import Head
from proxy.core.http.origin import Networks, client_address
from proxy.core.paths import job_of
from proxy.downstream.endings import Ending
from proxy.downstream.request_ids import known_id, new_id
from proxy.logs import DirectEvent
from proxy.logs.direct import Value

#: Characters of a method and of a path that are logged.
_LONGEST_METHOD, _LONGEST_PATH = 32, 2000
#: The scheme and the authority of an absolute-form target; the latter may hold a password.
_ORIGIN = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*://[^/?#]*")
_CONTENT_LOCATION = re.compile(rb"(?:\A|\n)Content-Location: ?([^\r\n]*)", re.IGNORECASE)


def _prepare(
    client: bytes | str | None,
    method: bytes | None,
    target: bytes | None,
    status: int,
    received: int,
    sent: int,
    seconds: float,
    lane: str,
    ending: Ending,
    request_id: str | None,
    job: str | None,
) -> tuple[Value, ...]:
    """The values of the fields. A request that nobody has asked for its id gets one now."""
    return (
        client,
        None if method is None else method[:_LONGEST_METHOD],
        None if target is None else path_in(target),
        status,
        received,
        sent,
        round(seconds, 6),
        lane,
        ending,
        request_id or new_id(),
        job,
    )


_REQUEST = DirectEvent(
    "request",
    logger=__name__,
    fields=(
        *("client", "method", "path", "status", "bytes_in", "bytes_out", "seconds", "lane"),
        *("termination", "request_id", "job"),
    ),
    numbers=("status", "bytes_in", "bytes_out", "seconds"),
    words=("lane", "termination", "request_id"),
    prepare=_prepare,
)


class AccessLog:
    """Logs the requests of this process's clients. `trusted` are the balancers whose report of the
    client's address counts (CONTRACT §13).

    Nothing of a request is logged but its method, its path and its id. What can be done later is
    left to `_prepare`: lines that are rendered together cost an ordinary request less.
    """

    def __init__(self, trusted: Networks) -> None:
        self._trusted = trusted

    def log(
        self,
        head: Head | None,
        peer: bytes,
        request_id: str | None,
        job: str | None,
        lane: str,
        status: int,
        received: int,
        sent: int,
        seconds: float,
        ending: Ending,
    ) -> None:
        """Log a request that has ended. `head` is None if it was not readable, `request_id` if the
        request has none so far.
        """
        if head is None:
            _REQUEST.log(
                *(peer, None, None, status, received, sent, seconds, lane, ending, request_id, job)
            )
            return
        client = self._reported(head, peer) if self._trusted else peer
        _REQUEST.log(
            client,
            head.method,
            head.target,
            status,
            received,
            sent,
            seconds,
            lane,
            ending,
            request_id or known_id(head),
            job,
        )

    def _reported(self, head: Head, peer: bytes) -> str | None:
        return client_address(
            peer.decode("latin-1"),
            self._trusted,
            lambda name: [value.decode("latin-1") for value in head.get_all(name.lower().encode())],
        )


def job_in(head: bytes) -> str | None:
    """The id of the job whose resource the response with this head has (Content-Location)."""
    found = _CONTENT_LOCATION.search(head.partition(b"\r\n\r\n")[0])
    return None if found is None else job_of(found[1].decode("latin-1"))


def path_in(target: bytes) -> bytes:
    """The path of a request's target as the client sent it, without an origin and a query."""
    if not target.startswith(b"/"):
        target = _ORIGIN.sub(b"", target, count=1)
    path = target.partition(b"?")[0].partition(b"#")[0]
    return path[:_LONGEST_PATH]
