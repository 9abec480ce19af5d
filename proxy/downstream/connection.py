"""One client connection: frames one request at a time and hands it to the relay or to a lane.

How it works. A connection is in one `Phase`, beginning with READY:

    READY ── head whole ──> SERVING ── answered, may serve on ──> READY
    SERVING ── 101 passed on ──> TUNNEL
    READY, SERVING, TUNNEL ── last answer written, more bytes may come ──> LINGERING
    LINGERING ── the client closes ──> gone

A READY connection whose next request arrives in one piece hands it on at once. All other bytes wait
in the `Inbox`: an unfinished head, and requests behind the one in progress. Each `Limit` has one
meaning and a deadline of its own, so that none of them can extend another: from the first byte of
the next head to its last `Limit.HEAD` runs, whether a request before it is still being answered,
its answer is read slowly, or reading is stopped and resumed. Reading stops while an exchange holds
the request's body, and while whole requests fill the inbox; a head that is not whole never stops
it, since its time runs.
"""

from __future__ import annotations

from proxy.core.errors import Problem, problem_bytes
from proxy.core.http.bodies import NOTHING, Body, body_of
from proxy.core.http.heads import Head, HeadTooLarge, MalformedMessage, find_end, parse_request
from proxy.core.routing import PassThrough
from proxy.downstream.base import BaseConnection, ConnectionOwner
from proxy.downstream.bridge import Bridge
from proxy.downstream.duplex import Closable
from proxy.downstream.lingering import LINGER, LINGER_EARLY
from proxy.downstream.phases import Limit, Phase
from proxy.net.sockets import reset

#: Bytes of the inbox that are tried first as a chunked body; then four times as many, and so on.
#: What is copied in vain is in proportion to the body, not to what waits behind it.
_TRIED = 512
#: Looking an enumeration's member up costs more than it should on the hot path.
_READY, _SERVING, _TUNNEL, _LINGERING = Phase
_IDLE, _BODY = Limit.IDLE, Limit.BODY


class ClientConnection(BaseConnection):
    """One client connection, and the request on it that is being served."""

    def __init__(self, door: ConnectionOwner) -> None:
        super().__init__(door)
        self.private: Closable | None = None
        self._head: Head | None = None
        self._lane: Bridge | None = None
        self._body: Body = NOTHING
        #: False while the client waits for `100 Continue`: its body is late only after that.
        self._invited = True

    # Called by the loop.

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        phase = self._phase
        if phase is _READY:
            if self._inbox.waiting or self._slow:
                self._queue(data)
            else:
                self._next(data)
        elif phase is _SERVING:
            if self._body.done:
                self._queue(data)
            else:
                self._take(data)
        elif phase is _LINGERING:
            self._lingering.heard()
        elif self._serving is not None:
            self._serving.feed(data)

    def eof_received(self) -> bool:
        """Called by the loop: the client has sent its last byte. True keeps the connection open for
        answers.

        CONTRACT §12: on our own paths whole requests still get their answers; anything else counts
        as a client that has left. So does every end on TLS: asyncio and uvloop close a connection
        after the peer's close_notify.
        """
        self._reading.ended = True
        if self.scheme == b"http":
            if self._phase is _SERVING and self._body.done and isinstance(self._serving, Bridge):
                return True
            if self._phase is _READY and self._slow and self._inbox:
                return True
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._leave()
        if self._lane is not None:
            self._lane.client_left()
        if self.private is not None:
            self.private.close()
        self._deadlines.cancel()
        self._inbox.clear()
        self._door.leave(self)

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._slow = False
        if self._phase is _LINGERING or self.transport.is_closing():
            return
        self._deadlines.clear(Limit.READER)
        if self._serving is not None:
            self._serving.client_ready()
        else:
            self._proceed()

    # One request after another.

    def _next(self, data: bytes) -> None:
        """Begin the request that `data` begins with, if its head is whole: the inbox is not needed
        for it.
        """
        # RFC 9112 §2.2: one empty line before a request is ignored
        start = 2 if data.startswith(b"\r\n") else 0
        try:
            end = find_end(data, start)
            if end < 0:
                self._queue(data)
                return
            head = parse_request(data[start:end])
        except MalformedMessage as why:
            self._refuse(data[start : start + 4096], why)
            return
        self._begin(head, data[end:])

    def _queue(self, data: bytes) -> None:
        """Keep bytes of the next requests."""
        if self.closing:
            return
        if self._inbox.keep(data):
            self._proceed()
            return
        self._door.counters.refused += 1
        if self._phase is _READY:
            self._turn_away("Unfinished requests take all the memory they may have. Try again.")
        else:
            self._last_answer()

    def _proceed(self) -> None:
        """Serve the next request once it is here, is first, and the client reads; else wait for
        what is missing.
        """
        inbox = self._inbox
        while inbox:
            turn = self._phase is _READY and not self._slow
            try:
                start, end = inbox.find_head()
                head = parse_request(inbox.peek(start, end)) if turn and end >= 0 else None
            except MalformedMessage as why:
                self._deadlines.clear(Limit.HEAD)
                if turn:
                    self._refuse(inbox.peek(0, 4096), why)
                break
            if end < 0:
                self._wait_for_head()
                break
            self._deadlines.clear(Limit.HEAD)
            if head is None:
                break
            inbox.drop(end)
            self._begin(head, b"")
        if self._phase is _READY and not self._slow and not inbox:
            self._rest()
        self._reading.update()

    def _wait_for_head(self) -> None:
        if self._reading.ended:
            self._end()
        elif not self._deadlines.is_set(Limit.HEAD):
            self._deadlines.clear(_IDLE)
            self._deadlines.set(Limit.HEAD, self._door.head_timeout)

    def _rest(self) -> None:
        """Wait for the first byte of a next request."""
        if self._reading.ended:
            self._end()
        else:
            self._deadlines.set(_IDLE, self._door.idle_timeout)

    def _begin(self, head: Head, rest: bytes) -> None:
        """Hand the request on. `rest` came with its head and is not in the inbox."""
        door = self._door
        door.counters.requests += 1
        decision = door.decide(head)
        self._deadlines.clear(_IDLE)
        if self._reading.ended and isinstance(decision, PassThrough):
            self._end()
            return
        self._phase = _SERVING
        self._head = head
        body = self._body = body_of(head.framing, head.length)
        whole = body.done
        self._invited = not head.expect_continue
        if isinstance(decision, PassThrough):
            door.counters.relayed += 1
            self._serving = door.relay.start(self, head, decision.target, whole=whole)
        else:
            lane = self._lane
            if lane is None or lane.closed:
                lane = self._lane = door.lane(self)
            self._serving = lane
            invite = head.expect_continue and not rest and not self._inbox
            lane.begin(head, decision, whole=whole, invite=invite)
        if whole:
            if rest:
                self._queue(rest)
        elif rest:
            self._take(rest)
        else:
            self._take_waiting()

    def _take(self, data: bytes, *, waiting: bool = False) -> None:
        """Pass bytes of the request's body on. `waiting`: they are the first ones of the inbox."""
        serving = self._serving
        if serving is None:
            return
        self._invited = True
        try:
            forward, rest = self._body.feed(data)
        except MalformedMessage as why:
            self._broken_request(why)
            return
        if waiting:
            self._inbox.drop(len(data) - len(rest))
            rest = b""
        if forward:
            serving.feed(forward)
        if self._body.done:
            self._reading.held = False
            self._deadlines.clear(_BODY)
            serving.end()
            if rest:
                self._queue(rest)
            elif self._reading.stopped:
                self._reading.update()
        else:
            self._limit_body()

    def _take_waiting(self) -> None:
        """Pass on what is here of the request's body."""
        size = max(self._head.length if self._head is not None else 0, _TRIED)
        while self._inbox and self._serving is not None and not self._body.done:
            self._take(self._inbox.peek(0, size), waiting=True)
            size *= 4
        if self._reading.ended and not self._body.done:
            self._leave()
            self._end()
        else:
            self._limit_body()

    def answered(self, *, keep: bool) -> None:
        """The answer is sent to its end; the connection serves the next request iff `keep`."""
        self._serving = self._head = None
        self._reading.held = False
        if not keep or self.closing or not self._body.done:
            self._close(LINGER_EARLY, unread=bool(self._inbox) or not self._body.done)
            return
        self._phase = _READY
        if self._inbox.waiting or self._reading.stopped or self._reading.ended:
            self._proceed()
        elif not self._slow:
            self._deadlines.set(_IDLE, self._door.idle_timeout)

    # What the served exchange asks for.

    def interim(self, data: bytes) -> None:
        """Write a 1xx answer; after a 100 the client owes us its body."""
        self.transport.write(data)
        self._invited = True
        self._limit_body()

    def hold(self) -> None:
        """Stop reading the body until `unhold`."""
        if self._phase is _TUNNEL or not self._body.done:
            self._reading.held = True
            self._deadlines.clear(_BODY)
            self._reading.update()

    def unhold(self) -> None:
        """Go on reading."""
        self._reading.held = False
        self._reading.update()
        self._limit_body()

    def tunnel(self) -> None:
        """From now on every byte is for the exchange."""
        self._phase = _TUNNEL
        self._deadlines.clear(Limit.HEAD)
        if self._inbox and self._serving is not None:
            self._serving.feed(self._inbox.peek(0, len(self._inbox)))
            self._inbox.clear()
        self._reading.update()

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

    # Ends.

    def _leave(self) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.client_left()

    def _refuse(self, begun: bytes, why: MalformedMessage) -> None:
        """CONTRACT §12: 400, or 431 for a head of more than 256 KiB, and close."""
        self._door.counters.refused += 1
        status = 431 if isinstance(why, HeadTooLarge) else 400
        problem = Problem("bad-request", f"The request is refused: {why}.", status=status)
        self.transport.write(problem_bytes(problem, None, keep=False, begun=begun))
        self._close(LINGER, unread=True)

    def _broken_request(self, why: MalformedMessage) -> None:
        """The body is malformed. Whatever was sent of it, its receiver must not take it for
        whole.
        """
        self._door.counters.refused += 1
        begun = self._serving is not None and self._serving.begun
        self._leave()
        if not begun:
            problem = Problem("bad-request", f"The request is refused: {why}.")
            self.transport.write(problem_bytes(problem, self._head, keep=False))
            self._close(LINGER, unread=True)
        else:
            reset(self.transport)

    # Time.

    def _limit_body(self) -> None:
        """A body that stalls is ended; waiting for us or for VB365 is no stall."""
        if self._invited and not self._reading.held and not self._body.done:
            self._deadlines.set(_BODY, self._door.head_timeout)
