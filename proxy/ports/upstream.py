"""What the packages ask of VB365."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from proxy.core.http.fields import Field as Field
from proxy.ports.artifacts import Source

#: Header fields as received: names and values with their case and bytes.
Fields = Sequence[Field]


class UpstreamFailure(Exception):
    """VB365 sent no complete response. `delivered`: VB365 may have received the request."""

    def __init__(self, message: str, *, delivered: bool) -> None:
        super().__init__(message)
        self.delivered = delivered

    def again(self) -> UpstreamFailure:
        """Return an equal failure to raise. One that is kept must not be raised itself: its
        traceback would keep the request until the garbage collector runs.
        """
        return type(self)(str(self), delivered=self.delivered)


class UpstreamUnreachable(UpstreamFailure):
    """Refused, unresolvable, TLS not trusted, or reset before the head of a response (CONTRACT §11,
    502).
    """


class LocalShortage(UpstreamUnreachable):
    """The local machine lacks a descriptor, port, buffer or memory to connect. The request was not
    sent, and the failure is not VB365's.
    """

    def __init__(self, message: str, *, delivered: bool = False) -> None:
        super().__init__(message, delivered=delivered)


class ResponseLost(UpstreamUnreachable):
    """The local machine had no memory for the head of the response. VB365 has the request, and the
    failure is not its own.
    """


class UpstreamTimedOut(UpstreamFailure):
    """Connecting, the head or the next bytes of the body took too long (CONTRACT §11, 504)."""


class UpstreamBroken(UpstreamFailure):
    """The body ended before its framing said so, or the framing is malformed (CONTRACT §10)."""


class Response(Protocol):
    """A response of VB365 whose head has arrived. Interim (1xx) responses are skipped."""

    status: int
    reason: bytes
    fields: Fields
    #: The field lines as the relay forwards them: without the hop-by-hop ones.
    lines: bytes
    #: Content-Length of the body, None if not announced.
    length: int | None
    #: Whether the framing proves the end (Content-Length, chunked, or no body). False if the body
    #: ends with the connection.
    delimited: bool

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises `UpstreamBroken`, or
        `UpstreamTimedOut` if it stalls.
        """

    def close(self) -> None:
        """Close the connection unless the whole body was read. Idempotent."""


@runtime_checkable
class Sourced(Protocol):
    """An optional capability of a `Response`: a thread can read its body."""

    def source(self) -> AbstractContextManager[Source | None]:
        """The body from the next byte on, for as long as the block runs: no call of the source may
        outlive it. None if `read` must be called next.
        """


@dataclass(frozen=True, slots=True)
class WholeResponse:
    """A response of VB365 with its body, to be handed to the caller as it is.

    `complete` is False if the body broke or was too large to be read whole. `lines` are the field
    lines as received, without the hop-by-hop ones.
    """

    status: int
    reason: bytes
    fields: Fields
    body: bytes
    complete: bool = True
    lines: bytes = b""


class Sender(Protocol):
    """Sends requests to VB365. None is sent twice."""

    async def send(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes = b"",
        *,
        timeout: float,
        stall: float,
    ) -> Response:
        """Send a request and return its response once the head has arrived, at most `timeout`
        seconds after the call. `stall` is the longest pause between bytes of the body, in seconds.

        `fields` are sent unchanged, in order. Content-Length is added if there is a body or the
        method is POST; Host, of the upstream, if it is missing. Raises `UpstreamUnreachable`
        (`LocalShortage` if this machine could not connect), `UpstreamTimedOut`, or
        `UpstreamBroken` if the head is malformed.
        """


class Upstream(Sender, Protocol):
    """The proxy's own requests to VB365: of jobs, preflights and access checks."""

    async def close(self) -> None:
        """Close idle connections."""


class Prepared(Sender, Protocol):
    """A connection that is being opened for one request, which is sent later. `send` may be called
    once, and never after `close`.
    """

    def close(self) -> None:
        """Close the connection unless the request was sent. Idempotent."""
