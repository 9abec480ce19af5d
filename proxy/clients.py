"""One client connection: frames one request at a time and hands it to the relay or to a lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from proxy import relay as relays
from proxy.buffered import share_reads
from proxy.connection import Connection
from proxy.core.bodies import NOTHING, Body, body_of
from proxy.core.door import Decision, Relay
from proxy.core.errors import Problem
from proxy.core.heads import Head, Refusal, find_end, parse_request
from proxy.core.refusals import problem_bytes
from proxy.deadline import Deadline
from proxy.lane import Lane
from proxy.sockets import has_left, probe, reset

#: Bytes of next requests that wait behind the one being served.
_PIPELINE = 1 << 16
#: After its last answer a client may go on sending, so that it can read it: seconds of silence, and seconds in all
#: after a refusal and after an early answer of U (a body on its way is a lot of bytes).
_LINGER = 2.0
_LINGER_EARLY = 30.0
#: Seconds between looks at a client that is not read from: has it left?
_LOOK = 2.0
#: A client that takes nothing of its answer is left alone for this many times `head_timeout`.
_SLOW = 5


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


class Door(Protocol):
    """What a client connection needs of the front door. Times are in seconds."""

    relay: relays.Relay
    decide: Callable[[Head], Decision]
    head_timeout: float
    idle_timeout: float
    counters: Counters

    def lane(self, client: Client) -> Lane:
        """aiohttp's half of a client connection."""

    def enter(self, client: Client) -> bool:
        """Count a new connection; False if it is one too many."""

    def leave(self, client: Client) -> None:
        """A connection is gone."""


class Client(asyncio.Protocol):
    """One client connection, and the request on it that is being served."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.transport = cast(asyncio.Transport, None)
        self.peer = b"unknown"
        self.scheme = b"http"
        self.closing = False
        self.private: Connection | None = None
        self._lane: Lane | None = None
        self._head: Head | None = None
        self._body: Body = NOTHING
        self._serving: Lane | relays.Exchange | None = None
        self._tunnelled = False
        self._buffer = bytearray()
        self._searched = 0
        self._held = False
        self._stopped = self._slow = False
        self._lingering = 0.0
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._expired)
        #: False while the client waits for `100 Continue`: its body is late only after that.
        self._invited = True

    @property
    def busy(self) -> bool:
        """A request is in progress."""
        return self._serving is not None

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0]).encode("ascii", "replace")
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = b"https"
        share_reads(self.transport, self)
        probe(transport)
        if self._door.enter(self):
            self._deadline.set(self._door.head_timeout)
        else:
            problem = Problem("capacity-exhausted", "Too many connections. Try again.", retry_after=5)
            self.transport.write(problem_bytes(problem, None, keep=False))
            self._close()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        serving = self._serving
        if serving is None:
            if self._lingering:
                self._linger()
            elif self._slow:
                self._buffer += data
                self._flow()
            elif self._buffer:
                self._buffer += data
                self._next(self._buffer)
            else:
                self._next(data)
        elif self._tunnelled:
            serving.feed(data)
        elif self._body.done:
            self._buffer += data
            self._flow()
        else:
            self._take(data)

    def eof_received(self) -> None:
        """Called by the loop. A client that has sent its last byte has left: TCP cannot tell the two apart."""
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._leave()
        if self._lane is not None:
            self._lane.client_left()
        if self.private is not None:
            self.private.close()
        self._deadline.cancel()
        self._door.leave(self)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._slow = True
        self._deadline.set(self._door.head_timeout * _SLOW)
        if self._serving is not None:
            self._serving.client_slow()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._slow = False
        if self._lingering or self.transport.is_closing():
            return
        if self._serving is not None:
            self._deadline.set(None)
            self._limit_body()
            self._serving.client_ready()
        else:
            self._proceed()

    # One request after another.

    def _next(self, data: bytes | bytearray) -> None:
        """Begin the request that `data` begins with, if its head is whole."""
        start = 2 if data.startswith(b"\r\n") else 0  # RFC 9112 §2.2: one empty line before a request is ignored
        try:
            end = find_end(data, start, self._searched)
            if end < 0:
                self._wait_for_head(data)
                return
            head = parse_request(bytes(data[start:end]))
        except Refusal as why:
            self._refuse(bytes(data[start : start + 4096]), why)
            return
        if data is self._buffer:
            del self._buffer[:end]
        elif end < len(data):
            self._buffer += data[end:]
        self._searched = 0
        self._begin(head)

    def _wait_for_head(self, data: bytes | bytearray) -> None:
        if not self._searched:
            self._deadline.set(self._door.head_timeout)
        if data is not self._buffer:
            self._buffer += data
        self._searched = len(data)

    def _begin(self, head: Head) -> None:
        door = self._door
        door.counters.requests += 1
        self._head = head
        body = self._body = body_of(head.framing, head.length)
        whole = body.done
        decision = door.decide(head)
        self._deadline.set(None)
        self._invited = not head.expect_continue
        if isinstance(decision, Relay):
            door.counters.relayed += 1
            self._serving = door.relay.start(self, head, decision.target, whole=whole)
        else:
            lane = self._lane
            if lane is None or lane.closed:
                lane = self._lane = door.lane(self)
            self._serving = lane
            lane.begin(head, decision, whole=whole, invite=head.expect_continue and not self._buffer)
        if whole:
            return
        if self._buffer:
            rest = bytes(self._buffer)
            self._buffer.clear()
            self._take(rest)
        else:
            self._limit_body()

    def _take(self, data: bytes) -> None:
        """Pass bytes of the request's body on."""
        serving = self._serving
        if serving is None:
            return
        self._invited = True
        try:
            forward, rest = self._body.feed(data)
        except Refusal as why:
            self._broken_request(why)
            return
        if forward:
            serving.feed(forward)
        if self._body.done:
            self._buffer += rest
            self._held = False
            if not self._slow:
                self._deadline.set(None)
            serving.end()
            self._flow()
        else:
            self._limit_body()

    def answered(self, *, keep: bool) -> None:
        """The answer is sent to its end; the connection serves the next request iff `keep`."""
        self._serving = None
        self._held = False
        if not keep or self.closing or not self._body.done:
            self._close(_LINGER_EARLY)
        else:
            if self._stopped:
                self._flow()
            self._proceed()

    def _proceed(self) -> None:
        """Serve what has come meanwhile, or wait. A client that does not read gets no further answers."""
        if self._slow:
            return
        self._deadline.set(self._door.idle_timeout)
        if self._buffer:
            self._next(self._buffer)
            self._flow()

    # What the served exchange asks for.

    def interim(self, data: bytes) -> None:
        """Write a 1xx answer; after a 100 the client owes us its body."""
        self.transport.write(data)
        self._invited = True
        self._limit_body()

    def hold(self) -> None:
        """Stop reading until `unhold`."""
        self._held = True
        self._flow()

    def unhold(self) -> None:
        """Go on reading."""
        self._held = False
        self._flow()
        self._limit_body()

    def tunnel(self) -> None:
        """From now on every byte is for the exchange."""
        self._tunnelled = True
        if self._buffer and self._serving is not None:
            self._serving.feed(bytes(self._buffer))
            self._buffer.clear()
        self._flow()

    def problem(self, problem: Problem) -> None:
        """Answer with `problem`; nothing of an answer is sent yet."""
        head = self._head
        keep = self._body.done and head is not None and head.keep_alive and not self.closing
        self.transport.write(problem_bytes(problem, head, keep=keep))
        self.answered(keep=keep)

    def break_off(self) -> None:
        """Abort, so that no framing can make the client believe that its answer is whole."""
        self._door.counters.broken += self._serving is not None
        self._leave()
        reset(self.transport)

    def drain(self) -> None:
        """Close now if idle, else after the answer."""
        self.closing = True
        if self._serving is None and not self._lingering:
            self.transport.close()

    # Ends.

    def _leave(self) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.client_left()

    def _refuse(self, begun: bytes, why: Refusal) -> None:
        """CONTRACT §12: 400 and close."""
        self._door.counters.refused += 1
        problem = Problem("bad-request", f"The request is refused: {why}.")
        self.transport.write(problem_bytes(problem, None, keep=False, begun=begun))
        self._head = None
        self._close()

    def _broken_request(self, why: Refusal) -> None:
        """The body is malformed. Whatever was sent of it, its receiver must not take it for whole."""
        self._door.counters.refused += 1
        begun = self._serving is not None and self._serving.begun
        self._leave()
        if not begun:
            problem = Problem("bad-request", f"The request is refused: {why}.")
            self.transport.write(problem_bytes(problem, self._head, keep=False))
            self._close()
        else:
            reset(self.transport)

    def _close(self, linger: float | None = None) -> None:
        """Close after what is written is out. A client that still sends may do so for `linger` seconds."""
        self.closing = True
        if self._body.done and not self._buffer and self._head is not None:
            self._deadline.set(self._door.head_timeout * _SLOW)
            self.transport.close()
            return
        self._buffer.clear()
        self._held = False
        self._lingering = self._loop.time() + (_LINGER if linger is None else linger)
        self._flow()
        self._deadline.set(self._door.head_timeout * _SLOW if self.transport.get_write_buffer_size() else _LINGER)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _linger(self) -> None:
        left = self._lingering - self._loop.time()
        if left <= 0:
            self.transport.abort()
        elif not self._slow:
            self._deadline.set(min(left, _LINGER))

    # Flow and time.

    def _flow(self) -> None:
        """Read from the client unless the exchange or a full pipeline says no."""
        waiting = self._slow or (self._serving is not None and not self._tunnelled)
        stop = self._held or (waiting and len(self._buffer) >= _PIPELINE)
        if stop != self._stopped and not self.transport.is_closing():
            self._stopped = stop
            if not self._slow:
                self._deadline.set(_LOOK if stop else None)
            if stop:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _limit_body(self) -> None:
        """A body that stalls is ended; waiting for us or for U is no stall."""
        if not self._body.done and self._invited and not self._held and not self._slow:
            self._deadline.set(self._door.head_timeout)

    def _expired(self) -> None:
        if self._stopped and not self._slow:
            self._look()
            return
        self._door.counters.timed_out += self._serving is not None or bool(self._buffer)
        if self._serving is not None or self._slow:
            self.break_off()
        elif self.transport.is_closing() or self._lingering:
            self.transport.abort()
        else:
            self.transport.close()

    def _look(self) -> None:
        """A client that is not read from may have left unnoticed."""
        if has_left(self.transport):
            self.break_off()
        else:
            self._deadline.set(_LOOK)
