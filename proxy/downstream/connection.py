"""One client connection: frames one request at a time and hands it to the relay or to a bridge.

Theory of operation. A connection is in one `Phase`, beginning with READY:

    READY ── head complete ──> SERVING ── response written, keep-alive ──> READY
    SERVING ── 101 forwarded ──> TUNNEL
    READY, SERVING, TUNNEL ── last response written, more input may come ──> LINGERING
    LINGERING ── the client closes ──> end

A READY connection hands on a request whose head arrives in one piece at once. All other input waits
in the `Inbox`: an incomplete head, pipelined requests, and what is left to scan of a body. Each
`Limit` has one meaning and a deadline of its own, so that none can extend another: `Limit.HEAD`
runs from the first byte of the next head to its last, whether a request before it is still being
served, its response is read slowly, or reading is paused and resumed. Reading pauses while an
exchange holds the request's body and while complete requests fill the inbox, but never within a
head, which must arrive in time.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.errors import Problem
from proxy.core.http.bodies import body_of
from proxy.core.http.heads import Framing, Head
from proxy.core.paths import job_of
from proxy.core.routing import Decision, Own, PassThrough, Rescue
from proxy.downstream.access_log import job_in
from proxy.downstream.base import NO_MEMORY, ConnectionOwner
from proxy.downstream.body_reader import CHUNKS, BodyReader
from proxy.downstream.bridge import Bridge
from proxy.downstream.duplex import Closable
from proxy.downstream.endings import Ending, without_response
from proxy.downstream.lingering import LINGER_EARLY
from proxy.downstream.phases import Limit, Phase
from proxy.downstream.request_ids import request_id
from proxy.net.sockets import is_sent, reset
from proxy.ports.counts import NO_RESPONSE, LaneCounts

#: A larger head counts against the memory that all clients share (CONTRACT §12) until its request
#: is answered, with its fields unless it is passed through. Smaller ones are bounded well enough by
#: the number of connections.
_LARGE_HEAD = 16 << 10
#: Looking an enumeration's member up costs more than it should on the hot path.
_READY, _SERVING, _TUNNEL, _LINGERING = Phase
_IDLE = Limit.IDLE
_CHUNKED = Framing.CHUNKED


class ClientConnection(BodyReader):
    """One client connection and the request in progress on it."""

    __slots__ = (
        "_bridge",
        "_closed_well",
        "_ending",
        "_lane",
        "_responded",
        "code",
        "delivered",
        "private",
    )

    def __init__(self, owner: ConnectionOwner) -> None:
        super().__init__(owner)
        self.private: Closable | None = None
        self.delivered: Callable[[bool], None] | None = None
        #: True once the proxy closes the connection after a whole response.
        self._closed_well = False
        self._bridge: Bridge | None = None
        #: The lane and the status of the request in progress.
        self._lane: LaneCounts = owner.counters.own
        self.code = NO_RESPONSE
        #: How the request in progress ends if its response is written to its end.
        self._ending = Ending.SERVED
        #: When the first bytes of the response in progress were written; 0 while they were not.
        self._responded = 0.0

    # Called by the loop.

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self.received += len(data)
        if self.delivered is not None and self._lingering.handed_over:
            self._report(received=True)  # see `upstream.local_pool.LocalConnection`
            return
        phase = self._phase
        if phase is _READY:
            if self._inbox.waiting or self.slow:
                self._queue(data)
            else:
                self._next(data)
        elif phase is _SERVING:
            if self._body.done:
                self._queue(data)
            elif self._inbox:
                self._wait(data)
            else:
                self._take(data)
        elif phase is _LINGERING:
            self._lingering.heard()
        elif self._serving is not None:
            self._serving.feed(data)

    def eof_received(self) -> bool:
        """Called by the loop when the client shuts its sending side. True keeps it open."""
        self._reading.ended = True
        self._report(received=not self._lingering.handed_over and is_sent(self.transport))
        if self._outlasts_half_close:
            return True
        self._leave()
        self._lingering.close()  # the loop would, too, and wait for ever for it to read the rest
        return False

    @property
    def _outlasts_half_close(self) -> bool:
        """On the proxy's own paths a complete request still gets its response (CONTRACT §12). In
        any other case the client counts as gone, and always with TLS, where few clients send a
        close_notify before they close.
        """
        if self.scheme != b"http":
            return False
        if self._phase is _SERVING:
            passed_through = self._lane in (self.counters.relay, self.counters.rescue)
            arrived = self._body.done or bool(self._inbox)
            return arrived and not passed_through
        return self._phase is _READY and self.slow and bool(self._inbox)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        well = self._closed_well and not self._lingering.handed_over
        self._report(received=well and exc is None)
        self._leave()
        if self._bridge is not None:
            self._bridge.client_left()
            self._bridge = None
        if self.private is not None:
            self.private.close()
        self._deadlines.cancel()
        self._inbox.clear()
        self._owner.leave(self)

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._has_read()
        if self._phase is _LINGERING or self.transport.is_closing():
            return
        self._deadlines.clear(Limit.READER)
        if self._serving is not None:
            self._serving.client_ready()
        else:
            self._proceed()

    # Requests.

    def _begin(self, head: Head, rest: bytes) -> None:
        owner = self._owner
        if self.delivered is not None:
            self._report(received=is_sent(self.transport))
        decision = owner.decide(head)
        self._deadlines.clear(_IDLE)
        if self._reading.ended and isinstance(decision, PassThrough):
            self._inbox.clear()
            self._end()
            return
        size = len(head.block) if isinstance(decision, PassThrough) else head.size
        if size > _LARGE_HEAD and not self._hold(size):
            self.counters.refused += 1
            self._refuse_connection(NO_MEMORY)
            return
        self._phase = _SERVING
        self._since = self._arrived or owner.now()
        self._responded = self._arrived = 0.0
        self.code = NO_RESPONSE
        self._head = head
        body = self._body = body_of(head.framing, head.length, most=CHUNKS)
        self._decoded = False
        whole = body.done
        self._invited = not head.expect_continue
        self.job = None
        if isinstance(decision, PassThrough):
            self._lane = self.counters.relay
            self._serving = owner.relay.start(self, head, decision.target, whole=whole)
        else:
            self._lane = self._lane_of(decision)
            self._serve(head, decision, whole=whole, alone=not rest)
        if whole:
            if rest:
                self._queue(rest)
        elif rest:
            self._take(rest)
        else:
            self._take_waiting()

    def _serve(self, head: Head, decision: Decision, *, whole: bool, alone: bool) -> None:
        """Start an exchange that is not passed through. `alone`: nothing arrived with the head."""
        owner = self._owner
        head.id = self._given_id
        if isinstance(decision, Rescue) and owner.rescue is not None:
            self._serving = owner.rescue.start(self, head, decision, whole=whole)
            if self.slow:  # its 100 Continue has found that
                self._serving.client_slow()
            return
        if owner.exports is not None:
            self._serving = owner.exports.start(self, head, head.target, whole=whole)
            return
        bridge = self._bridge
        if bridge is None or bridge.closed:
            bridge = self._bridge = owner.bridge(self)
        self._serving = bridge
        if not whole and not isinstance(decision, Own):  # which drops it: decoding takes longest
            self._body = body_of(head.framing, head.length, decode=True, most=CHUNKS)
            self._decoded = head.framing is _CHUNKED
        request_id(head)
        bridge.begin(head, decision, whole=whole, alone=alone and not self._inbox)

    def _lane_of(self, decision: Decision) -> LaneCounts:
        if not isinstance(decision, Own):
            return self.counters.rescue if isinstance(decision, Rescue) else self.counters.kickoff
        self.job = job_of(decision.rest)
        return self.counters.own

    def answered(self, *, keep: bool) -> None:
        """Called by the exchange once its response is written. Serve another request iff `keep`."""
        lane, now = self._lane, self._owner.now()
        if self._responded:
            lane.ended(self.code, self._since, self._responded, now)
        else:  # the hot path: as `ended`, without a call
            lane.codes[self.code] += 1
            lane.pending.append(now - self._since)
        if self._access is not None:
            self._log(self._head, lane, self.code, now - self._since, self._ending)
        self._serving = self._head = None
        if self._held:
            self._release()
        self._reading.held = False
        if not keep or self.closing or not self._body.done:
            self._close(LINGER_EARLY)
            return
        self._phase = _READY
        if self._inbox.waiting or self._reading.stopped or self._reading.ended:
            self._proceed()
        elif not (self.slow or self._lingering.handed_over):
            self._deadlines.set(_IDLE, self._owner.idle_timeout)

    # Called by the exchange; see `duplex.ClientSide`.

    def responding(self) -> None:
        """Note when the response began."""
        self._responded = self._owner.now()

    def note_job(self, head: bytes | bytearray | memoryview) -> None:
        """Note the job whose resource the response with this head has, if any, for the log."""
        if self._access is not None and self.job is None:
            self.job = job_in(bytes(head))

    def handled(self) -> None:
        """Release the memory of the fields: a client may take hours to send a body that nobody
        reads.
        """
        if self._held and self._head is not None:
            block = len(self._head.block)
            kept = block if block > _LARGE_HEAD else 0
            self._owner.waiting.give(self._held - kept)
            self._held = kept

    def tunnel(self) -> None:
        """Hand every further byte to the exchange."""
        self._phase = _TUNNEL
        self._deadlines.clear(Limit.HEAD)
        if self._inbox and self._serving is not None:
            self._serving.feed(self._inbox.peek(0, len(self._inbox)))
            self._inbox.clear()
        self._reading.update()

    def problem(self, problem: Problem) -> None:
        """Respond with `problem`, or break off if there is no memory for it. Nothing of a response
        was written.
        """
        head = self._head
        keep = self._body.done and head is not None and head.keep_alive and not self.closing
        self.code = problem.status
        try:
            self._write_problem(problem, head, keep=keep)
            self._ending = without_response(problem.status)
            self.answered(keep=keep)
            self._ending = Ending.SERVED
        except MemoryError:  # the client would wait for ever
            self.break_off(Ending.ABORTED)

    def break_off(self, why: Ending) -> None:
        """Abort, so that the client cannot take its response for whole."""
        self._report(received=False)
        self.counters.broken += self._serving is not None
        self._leave(why)
        reset(self.transport)

    # Closing.

    def _report(self, *, received: bool) -> None:
        """Say whether the client has received the last response, if a callback is set."""
        report, self.delivered = self.delivered, None
        if report is not None:
            report(received)

    def _end(self) -> None:
        self._closed_well = True
        super()._end()

    def _expired(self, which: int) -> None:
        if which == Limit.LINGER and self.delivered is not None:
            if is_sent(self.transport):
                self._report(received=True)
            elif not self._owner.draining:  # it is silent because it reads
                self._lingering.wait()
                return
        super()._expired(which)

    def _leave(self, ending: Ending = Ending.CLIENT_LEFT) -> None:
        """End the request in progress, if any, without the rest of its response."""
        serving, self._serving = self._serving, None
        self._release()
        if serving is not None:
            serving.client_left()
            now = self._owner.now()
            self._lane.ended(self.code, self._since, self._responded, now)
            self._log(self._head, self._lane, self.code, now - self._since, ending)
