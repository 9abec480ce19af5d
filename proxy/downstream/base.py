"""What every client connection does, whatever it serves: time limits, flow control and closing."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, cast

from proxy.core.errors import Problem, problem_bytes
from proxy.core.http.heads import Head
from proxy.core.http.proxy_line import Endpoint
from proxy.core.routing import Decision
from proxy.downstream.access_log import AccessLog
from proxy.downstream.bridge import Bridge
from proxy.downstream.duplex import ClientSide, Exchange, Forwarder, Rescuing
from proxy.downstream.endings import Ending
from proxy.downstream.inbox import Inbox
from proxy.downstream.lingering import LINGER, SLOW, Lingering
from proxy.downstream.phases import Limit, Phase
from proxy.downstream.reading import Reading
from proxy.downstream.request_ids import request_id
from proxy.net.backlog import Backlog, is_steady
from proxy.net.budget import Budget
from proxy.net.deadline import Deadlines
from proxy.net.sockets import enable_keepalive, is_sent, unsent
from proxy.ports.counts import NO_RESPONSE, ClientCounts, LaneCounts

NO_MEMORY = "Unfinished requests take all the memory they may have. Try again."
#: The transport of a connection that this process has accepted knows its ends.
_ACCEPTED_HERE: Mapping[str, Endpoint] = {}


class ConnectionOwner(Protocol):
    """The server, as its client connections use it. Times are in seconds."""

    relay: Forwarder
    #: Forwards the requests that are not passed through; None if this process serves them.
    exports: Forwarder | None
    #: Serves or forwards the exports that run as jobs unasked; None if there are none.
    rescue: Rescuing | None
    decide: Callable[[Head], Decision]
    head_timeout: float
    idle_timeout: float
    counters: ClientCounts
    #: Counts of connections that another process has accepted, and counts itself.
    uncounted: ClientCounts
    #: The event loop's clock.
    now: Callable[[], float]
    #: Memory that the inboxes of all clients share, in bytes.
    waiting: Budget
    #: What the clients have not read.
    unread: Backlog
    #: Logs each request; None if nothing does.
    access: AccessLog | None
    #: True once the server is stopping.
    draining: bool

    def bridge(self, client: ClientSide) -> Bridge:
        """Make the bridge between a client connection and aiohttp."""

    def enter(self, client: BaseConnection) -> bool:
        """Count a new connection. Return False if it is over the limit."""

    def leave(self, client: BaseConnection) -> None:
        """Forget a connection that has ended."""


class BaseConnection(asyncio.Protocol, ABC):
    """A client connection without the requests on it; see `downstream.connection`."""

    # more attributes than a class's instances share the names of (30): thousands of connections
    __slots__ = (
        "_access",
        "_arrived",
        "_deadlines",
        "_given_id",
        "_inbox",
        "_lingering",
        "_logged",
        "_owner",
        "_phase",
        "_reading",
        "_serving",
        "_settled",
        "_unsent",
        "closing",
        "counters",
        "introduced",
        "job",
        "peer",
        "received",
        "scheme",
        "sent",
        "slow",
        "transport",
    )

    #: Set by `connection_made`, before anything else can use the connection.
    transport: asyncio.Transport
    _reading: Reading
    _lingering: Lingering

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self.peer = b"unknown"
        self.scheme = b"http"
        self.introduced = _ACCEPTED_HERE
        self.counters = owner.counters
        #: Bytes without those of TLS, and how many of them `settle` has added to the counts.
        self.received = self.sent = 0
        self._settled = (0, 0)
        #: Logs the requests on this connection, which have received and sent so many bytes so far.
        self._access = owner.access
        self._logged = (0, 0)
        #: The job that the request in progress is about.
        self.job: str | None = None
        #: The id of the only request of a connection that another process has accepted.
        self._given_id: str | None = None
        #: When the first bytes of the next request arrived; 0 while they have not.
        self._arrived = 0.0
        #: True once no further request is served.
        self.closing = False
        self._phase = Phase.READY
        self._serving: Exchange | None = None
        self._inbox = Inbox(owner.waiting)
        self._deadlines = Deadlines(len(Limit), self._expired)
        #: True while the client reads more slowly than the proxy writes.
        self.slow = False
        #: What it had not read when its time to read was last set.
        self._unsent = 0

    def __repr__(self) -> str:
        """Client, phase, and what the connection waits for, for logs and debuggers."""
        waits = [limit.name.lower() for limit in Limit if self._deadlines.is_set(limit)]
        address = f"{self.scheme.decode()} {self.peer.decode('latin-1')}"
        return (
            f"<{type(self).__name__} {address} {self._phase.name.lower()}"
            f" waits_for={','.join(waits) or 'nothing'} serving={self._serving!r}>"
        )

    @property
    @abstractmethod
    def _outlasts_half_close(self) -> bool:
        """Whether a client that shuts its sending side now still gets its responses."""

    @abstractmethod
    def break_off(self, why: Ending) -> None:
        """Abort, so that the client cannot take its response for whole."""

    @property
    def busy(self) -> bool:
        """Whether a request is in progress."""
        return self._serving is not None

    @property
    def _patience(self) -> float:
        """Seconds for which a client may read nothing of its response, or less than `PACE`."""
        return self._owner.head_timeout * SLOW

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop. The first head must begin within `head_timeout`."""
        self.transport = cast("asyncio.Transport", transport)
        self._reading = Reading(self.transport, self._inbox, self._deadlines)
        handed_over = self.counters is self._owner.uncounted
        self._lingering = Lingering(
            self.transport, self._deadlines, self._patience, handed_over=handed_over
        )
        # what it has not read is counted from the first byte: there are thousands of clients
        self.transport.set_write_buffer_limits(high=1, low=0)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0]).encode("ascii", "replace")
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = b"https"
        enable_keepalive(transport)
        if self._owner.enter(self):
            self._deadlines.set(Limit.IDLE, self._owner.head_timeout)
        else:
            self._refuse_connection("Too many connections. Try again.")

    def introduce(
        self, scheme: bytes, client: Endpoint | None, local: Endpoint | None, request_id: str | None
    ) -> None:
        """Take over what is known of the connection and of the request on it, which another process
        has accepted, counts and logs. Call before `connection_made`.
        """
        self.scheme = scheme
        self.counters = self._owner.uncounted
        self._access = None
        self._given_id = request_id
        if client is not None and local is not None:
            self.peer = client[0].encode()
            self.introduced = {"peername": client, "sockname": local}

    def settle(self) -> None:
        """Add the bytes since the last call to the counts."""
        received, sent = self._settled
        self._settled = self.received, self.sent
        self.counters.received += self.received - received
        self.counters.sent += self.sent - sent

    def never_began(self) -> None:
        """Called if the connection ended before `connection_made`."""
        self._owner.leave(self)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self.slow = True
        if self._serving is not None:
            self._serving.client_slow()
        try:
            size, left = self.transport.get_write_buffer_size(), partial(unsent, self.transport)
            self._owner.unread.add(self, size, self._read_too_slowly, unsent=left)
            self._unsent = left()
            if not self._lingering.handed_over:  # the other process knows how its client reads
                self._deadlines.set(Limit.READER, self._patience)
        except MemoryError:  # it would neither count nor have a time limit
            # not now: whoever is writing goes on
            asyncio.get_running_loop().call_soon(self.break_off, Ending.ABORTED)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes of a response."""
        self.sent += len(data)
        was_slow = self.slow
        self.transport.write(data)
        if was_slow:  # else `pause_writing` has counted them, if it was called
            self._unsent += len(data)
            size = self.transport.get_write_buffer_size()
            self._owner.unread.grow(self, size, written=len(data))

    def _has_read(self) -> None:
        """Note that the client has read what was written."""
        self.slow = False
        self._owner.unread.discard(self)

    def _read_too_slowly(self) -> None:
        """Break off: the client has read nothing for longest."""
        self.break_off(Ending.TIMED_OUT)

    def _reads_steadily(self) -> bool:
        """Report whether the client, whose time to read is over, has used it and gets as much
        again: the system takes more only once a third of what it keeps, perhaps megabytes, is read.
        """
        before, self._unsent = self._unsent, unsent(self.transport)
        if not is_steady(before - self._unsent, self._patience):
            return False
        self._deadlines.set(Limit.READER, self._patience)
        return True

    def drain(self) -> None:
        """Close now if idle, else after the response."""
        self.closing = True
        if self._phase is Phase.READY:
            self._end_idle()

    def _refuse_connection(self, detail: str) -> None:
        """Respond 503 and close. No request is in progress."""
        problem = Problem("capacity-exhausted", detail, retry_after=5)
        self._write_refusal(problem, None)
        self._close(LINGER)

    def _write_refusal(
        self, problem: Problem, head: Head | None, *, begun: bytes = b"", since: float = 0.0
    ) -> None:
        """Write the problem for a request that is not served, and count it in its lane. `begun` is
        the part of an unreadable head that has arrived; the request began at `since`, 0 for now.
        """
        named = self._write_problem(problem, head, keep=False, begun=begun)
        now = self._owner.now()
        self._not_served(head, problem.status, since or now, now, Ending.REFUSED, named)

    def _not_served(
        self,
        head: Head | None,
        status: int,
        since: float,
        now: float,
        ending: Ending,
        request_id: str | None = None,
    ) -> None:
        """Count and log a request that is not served."""
        lane = self.counters.refusals
        lane.ended(status, since, 0.0, now)
        if self._access is not None:
            self._log(head, lane, status, now - since, ending, request_id)

    def _log(
        self,
        head: Head | None,
        lane: LaneCounts,
        status: int,
        seconds: float,
        ending: Ending,
        named: str | None = None,
    ) -> None:
        """Log a request that has ended. `named` is its id if that is known."""
        if self._access is None:
            return
        received = self.received
        if lane is not self.counters.refusals:  # what else has arrived is of the next request
            received -= len(self._inbox)
        before, self._logged = self._logged, (received, self.sent)
        # better a line less than a connection that is neither served nor closed
        with contextlib.suppress(MemoryError):
            self._access.log(
                head,
                self.peer,
                named,
                self.job,
                lane.name,
                status,
                received - before[0],
                self.sent - before[1],
                seconds,
                ending,
            )

    def _write_problem(
        self, problem: Problem, head: Head | None, *, keep: bool, begun: bytes = b""
    ) -> str:
        """Write the problem. Return the id of the request."""
        named = request_id(head)
        data = problem_bytes(problem, head, keep=keep, begun=begun, request_id=named)
        self.write(data)
        return named

    def _last_response(self) -> None:
        """Close after the response in progress, and drop the requests behind it."""
        self.closing = True
        self._deadlines.clear(Limit.HEAD)
        self._inbox.clear()
        self._reading.update()

    def _close(self, linger: float) -> None:
        """Close once everything written is sent. The client may still be sending, and is read from
        for up to `linger` seconds.
        """
        for limit in (Limit.HEAD, Limit.BODY, Limit.IDLE):
            self._deadlines.clear(limit)
        if self._reading.ended:
            self._end()
            return
        self.closing = True
        self._phase = Phase.LINGERING
        self._inbox.clear()
        self._reading.held = False
        self._reading.update()
        self._lingering.begin(linger)

    def _end_idle(self) -> None:
        """Close between two requests. A client that still reads a response may send another one."""
        if is_sent(self.transport):
            self._end()
        else:
            self._close(LINGER)

    def _end(self) -> None:
        self.closing = True
        self._lingering.close()

    def _expired(self, which: int) -> None:
        if which == Limit.LOOK:
            if self._reading.gone(half=not self._outlasts_half_close):
                self.break_off(Ending.CLIENT_LEFT)
        elif which == Limit.LINGER:
            self._lingering.expired()
        elif which == Limit.IDLE:
            self._end_idle()
        elif which != Limit.READER or not self._reads_steadily():
            self.counters.timed_out += 1
            if which != Limit.HEAD:
                self.break_off(Ending.TIMED_OUT)
            elif self._phase is Phase.READY:
                now = self._owner.now()
                self._not_served(None, NO_RESPONSE, self._arrived, now, Ending.TIMED_OUT)
                self._inbox.clear()
                self._end()
            else:
                self._last_response()
