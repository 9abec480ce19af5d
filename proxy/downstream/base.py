"""What every client's connection does whatever it carries: time limits, flow, and the end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from proxy.core.errors import Problem, problem_bytes
from proxy.core.http.heads import Head
from proxy.core.routing import Decision
from proxy.downstream.bridge import Bridge
from proxy.downstream.duplex import ClientSide, Exchange, Forwarder
from proxy.downstream.inbox import Inbox
from proxy.downstream.lingering import LINGER, SLOW, Lingering
from proxy.downstream.phases import Limit, Phase
from proxy.downstream.reading import Reading
from proxy.net.budget import Budget
from proxy.net.deadline import Deadlines
from proxy.net.shared_reads import share_reads
from proxy.net.sockets import enable_keepalive


@dataclass(slots=True)
class Counters:
    """What the front door has seen, for the metrics."""

    accepted: int = 0
    turned_away: int = 0
    requests: int = 0
    relayed: int = 0
    refused: int = 0
    timed_out: int = 0
    broken: int = 0


class ConnectionOwner(Protocol):
    """What a client connection needs of the front door. Times are in seconds."""

    relay: Forwarder
    decide: Callable[[Head], Decision]
    head_timeout: float
    idle_timeout: float
    counters: Counters
    #: Bytes that all clients may have in their inboxes.
    waiting: Budget

    def lane(self, client: ClientSide) -> Bridge:
        """aiohttp's half of a client connection."""

    def enter(self, client: BaseConnection) -> bool:
        """Count a new connection; False if it is one too many."""

    def leave(self, client: BaseConnection) -> None:
        """A connection is gone."""


class BaseConnection(asyncio.Protocol, ABC):
    """A client's connection, without what it serves: see `proxy.downstream.connection.Client`."""

    def __init__(self, door: ConnectionOwner) -> None:
        self._door = door
        self.transport = cast(asyncio.Transport, None)
        self.peer = b"unknown"
        self.scheme = b"http"
        #: No request after the one in progress is served.
        self.closing = False
        self._phase = Phase.READY
        self._serving: Exchange | None = None
        self._inbox = Inbox(door.waiting)
        self._deadlines = Deadlines(len(Limit), self._expired)
        self._reading = cast(Reading, None)
        self._lingering = cast(Lingering, None)
        #: The client takes no more of its answer now.
        self._slow = False

    @abstractmethod
    def break_off(self) -> None:
        """Abort, so that no framing can make the client believe that its answer is whole."""

    @property
    def busy(self) -> bool:
        """A request is in progress."""
        return self._serving is not None

    @property
    def _patience(self) -> float:
        """Seconds for which a client may take nothing of its answer."""
        return self._door.head_timeout * SLOW

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop. The first head may begin `head_timeout` after it."""
        self.transport = cast(asyncio.Transport, transport)
        self._reading = Reading(self.transport, self._inbox, self._deadlines)
        self._lingering = Lingering(self.transport, self._deadlines, self._patience)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0]).encode("ascii", "replace")
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = b"https"
        share_reads(self.transport, self)
        enable_keepalive(transport)
        if self._door.enter(self):
            self._deadlines.set(Limit.IDLE, self._door.head_timeout)
        else:
            self._turn_away("Too many connections. Try again.")

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._slow = True
        self._deadlines.set(Limit.READER, self._patience)
        if self._serving is not None:
            self._serving.client_slow()

    def drain(self) -> None:
        """Close now if idle, else after the answer."""
        self.closing = True
        if self._phase is Phase.READY:
            self._end()

    def _turn_away(self, detail: str) -> None:
        """No request is in progress, and none of this client is served now."""
        problem = Problem("capacity-exhausted", detail, retry_after=5)
        self.transport.write(problem_bytes(problem, None, keep=False))
        self._close(LINGER, unread=True)

    def _last_answer(self) -> None:
        """Finish the answer in progress and serve nothing that comes behind its request."""
        self.closing = True
        self._deadlines.clear(Limit.HEAD)
        self._inbox.clear()
        self._reading.update()

    def _close(self, linger: float, *, unread: bool) -> None:
        """Close after what is written is out. `unread`: the client still sends, and may do so for
        `linger` seconds.
        """
        for limit in (Limit.HEAD, Limit.BODY, Limit.IDLE):
            self._deadlines.clear(limit)
        if not unread or self._reading.ended:
            self._end()
            return
        self.closing = True
        self._phase = Phase.LINGERING
        self._inbox.clear()
        self._reading.held = False
        self._reading.update()
        self._lingering.begin(linger)

    def _end(self) -> None:
        self.closing = True
        self._lingering.close()

    def _expired(self, which: int) -> None:
        if which == Limit.LOOK:
            if self._reading.gone():
                self.break_off()
        elif which == Limit.LINGER:
            self._lingering.expired()
        elif which == Limit.IDLE:
            self._end()
        else:
            self._door.counters.timed_out += 1
            if which != Limit.HEAD:
                self.break_off()
            elif self._phase is Phase.READY:
                self._inbox.clear()
                self._end()
            else:
                self._last_answer()
