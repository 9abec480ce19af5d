"""The two sides of a request in progress: the client's connection, and what serves the request.

The connection drives an `Exchange`; the exchange answers through the `ClientSide`. A relayed
request (`proxy.relay.exchange`) and one of the proxy's own (`proxy.downstream.bridge`) are
exchanges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from proxy.core.errors import Problem
from proxy.core.http.heads import Head
from proxy.core.http.proxy_line import Endpoint
from proxy.core.routing import Rescue
from proxy.downstream.endings import Ending
from proxy.net.budget import Share


class Closable(Protocol):
    """A connection that can be closed."""

    def close(self) -> None:
        """Close at once. Idempotent."""


class ClientSide(Protocol):
    """The client's connection, as an exchange uses it."""

    transport: asyncio.Transport
    #: The client's address and `http` or `https`.
    peer: bytes
    scheme: bytes
    #: `peername` and `sockname` of the client's connection if another process accepted it.
    introduced: Mapping[str, Endpoint]
    #: True once this connection serves no further request.
    closing: bool
    #: The connection to VB365 that belongs to this client alone (NTLM, Negotiate). It is closed
    #: with the client's connection.
    private: Closable | None
    #: The bytes written; incremented by whoever writes a response past `write`.
    sent: int
    #: True while the client reads more slowly than the proxy writes. The exchange is told when that
    #: changes, but it may begin, or connect to VB365, in the meantime.
    slow: bool
    #: The status of the response, set before its first byte is written.
    code: int
    #: The id of the job that the request is about, for the log.
    job: str | None
    #: Called once with whether the client has received the whole response: it has closed or reused
    #: the connection properly, and not reset it. To be set before `answered`.
    delivered: Callable[[bool], None] | None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes of a response."""

    def responding(self) -> None:
        """The first bytes of the final response are written, and more will follow."""

    def note_job(self, head: bytes | bytearray | memoryview) -> None:
        """Note the job whose resource the response with this head has, if any, for the log."""

    def interim(self, data: bytes) -> None:
        """Write a 1xx response."""

    def hold(self) -> None:
        """Stop reading the request's body until `unhold`."""

    def unhold(self) -> None:
        """Read again."""

    def tunnel(self) -> None:
        """From now on every byte of the client belongs to the exchange."""

    def handled(self) -> None:
        """Nobody needs the fields of the request's head any more, though its body may follow."""

    def answered(self, *, keep: bool) -> None:
        """The response is written to its end. The connection serves the next request iff `keep`."""

    def problem(self, problem: Problem) -> None:
        """Respond with `problem`, which ends the exchange. Nothing of a response was written."""

    def break_off(self, why: Ending) -> None:
        """Abort the connection: the response cannot be finished and must not look whole."""


class Exchange(Protocol):
    """What serves a request, as the client's connection drives it."""

    @property
    def begun(self) -> bool:
        """Bytes of the final response are written."""

    def feed(self, data: bytes) -> None:
        """Take bytes of the request's body, still chunked if it is chunked."""

    def end(self) -> None:
        """The request is whole."""

    def client_left(self) -> None:
        """The client is gone."""

    def client_slow(self) -> None:
        """The client reads slower than the exchange writes."""

    def client_ready(self) -> None:
        """The client reads again."""


class Forwarded(Exchange, Protocol):
    """A request that is passed through."""

    def feed_counted(self, data: bytes, memory: Share) -> None:
        """As `feed`, once. `memory` is released when the bytes are in memory no longer."""


class Forwarder(Protocol):
    """Starts the exchanges of requests that are passed through."""

    def start(self, client: ClientSide, head: Head, target: bytes, *, whole: bool) -> Forwarded:
        """Forward the request with this target. `whole`: no byte of a body follows."""


class Rescuing(Protocol):
    """Starts the exchanges of exports that run as jobs although nobody asked for it."""

    def start(self, client: ClientSide, head: Head, decision: Rescue, *, whole: bool) -> Exchange:
        """Serve the export. `whole`: no byte of a body follows."""
