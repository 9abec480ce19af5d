"""Hands the bodies of requests to their exchanges; see `downstream.connection`."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from proxy.core.errors import Problem
from proxy.core.http.bodies import Chunks
from proxy.core.http.heads import Head, MalformedMessage
from proxy.downstream.base import NO_MEMORY, ConnectionOwner
from proxy.downstream.duplex import Exchange
from proxy.downstream.endings import Ending
from proxy.downstream.lingering import LINGER
from proxy.downstream.phases import Limit, Phase
from proxy.downstream.request_reader import RequestReader
from proxy.net.sockets import reset

#: Bytes of the inbox that are parsed first as a chunked body, then four times as many, and so on,
#: so that the copying is proportional to the body and not to the requests behind it.
_TRIED = 512
#: Chunks of a body after which others have their turn. One read may contain 40,000, and uvloop
#: would read megabytes, which take half a second.
CHUNKS = 1 << 9
#: Looking an enumeration's member up costs more than it should on the hot path.
_SERVING, _TUNNEL = Phase.SERVING, Phase.TUNNEL
_BODY = Limit.BODY


class BodyReader(RequestReader):
    """A client connection that hands the body of the request in progress to its exchange."""

    __slots__ = ("_decoded", "_head", "_invited", "_since")

    def __init__(self, owner: ConnectionOwner) -> None:
        super().__init__(owner)
        self._head: Head | None = None
        #: Whether the chunks of the body are decoded: what the handler does not read must wait.
        self._decoded = False
        #: False while the client waits for `100 Continue`; the body deadline starts after it.
        self._invited = True
        #: When the first bytes of the request in progress arrived.
        self._since = 0.0

    @abstractmethod
    def _leave(self, ending: Ending = Ending.CLIENT_LEFT) -> None:
        """End the request in progress, if any, without the rest of its response."""

    def _take(self, data: bytes, *, waiting: bool = False) -> None:
        """Hand on bytes of the request's body. `waiting`: they are at the head of the inbox."""
        serving = self._serving
        if serving is None:
            return
        self._invited = True
        try:
            forward, rest = self._body.feed(data)
            if waiting:
                self._inbox.drop(len(data) - len(rest))
                rest = b""
            elif rest and not self._body.done and not self._inbox.keep(rest):
                more, rest = self._scan(rest)
                if rest and not self._body.done:
                    self._refuse_for_memory()
                    return
                forward += more
        except MalformedMessage as why:
            self._broken_request(why)
            return
        if forward:
            serving.feed(forward)
        if self._body.done:
            self._is_whole(serving, rest)
        else:
            self._limit_body()
            body = self._body
            if isinstance(body, Chunks) and body.scanned >= CHUNKS:
                body.scanned = 0
                self._reading.give_way(self._go_on)

    def _is_whole(self, serving: Exchange, rest: bytes) -> None:
        """Note the end of the body. `rest` is behind it, and not in the inbox."""
        self._reading.held = False
        self._deadlines.clear(_BODY)
        serving.end()
        if rest:
            self._queue(rest)
        elif self._inbox:
            self._proceed()  # the time for a head behind the body runs from now
        elif self._reading.stopped:
            self._reading.update()

    def _scan(self, data: bytes) -> tuple[bytes, bytes]:
        """Feed as many chunks to the body once more, unless it is decoded: what strangers have used
        up must end no request whose chunks are not small. Others have their turns then.
        """
        if self._decoded:
            return b"", data
        body = cast("Chunks", self._body)
        body.scanned = 0
        forward, rest = body.feed(data)
        body.scanned = CHUNKS
        return forward, rest

    def _wait(self, data: bytes) -> None:
        """Keep bytes of the body behind those that wait for later turns."""
        if not self._inbox.keep(data):
            self._refuse_for_memory()

    def _refuse_for_memory(self) -> None:
        self.counters.refused += 1
        self._refuse_body(Problem("capacity-exhausted", NO_MEMORY, retry_after=5))

    def _go_on(self) -> None:
        """Hand on more of the body once others have had their turns."""
        try:
            self._take_waiting()
        except Exception as why:
            # a part of the body may be missing; the loop ends no connection for an error here
            self.break_off(Ending.ABORTED)
            if not isinstance(why, MemoryError):
                raise

    def _take_waiting(self) -> None:
        """Hand on what has arrived of the request's body, unless others have their turns first."""
        if self._phase is not _SERVING:
            return
        reading, inbox = self._reading, self._inbox
        size = max(self._head.length if self._head is not None else 0, _TRIED)
        while inbox and self._serving is not None and not self._body.done:
            if reading.yields or (self._decoded and reading.held):
                return
            self._take(inbox.peek(0, size), waiting=True)
            size *= 4
        if reading.ended and not self._body.done:
            self._leave()
            self._end()
        else:
            self._limit_body()

    # Called by the exchange; see `duplex.ClientSide`.

    def interim(self, data: bytes) -> None:
        """Write a 1xx response. After a 100 the client must send its body."""
        self.write(data)
        self._invited = True
        self._limit_body()

    def hold(self) -> None:
        """Stop reading the body until `unhold`."""
        if self._phase is _TUNNEL or not self._body.done:
            self._reading.held = True
            self._deadlines.clear(_BODY)
            self._reading.update()

    def unhold(self) -> None:
        """Read the body again."""
        self._reading.held = False
        if self._decoded and self._inbox:
            # not now: the handler that calls is about to read what more would be added to
            self._reading.give_way(self._go_on)
        self._reading.update()
        self._limit_body()

    # Endings.

    def _broken_request(self, why: MalformedMessage) -> None:
        """End a request with a malformed body."""
        self.counters.refused += 1
        self._refuse_body(Problem("bad-request", f"The request is refused: {why}."))

    def _refuse_body(self, problem: Problem) -> None:
        """End a request within its body. VB365 must not take the part it got for whole."""
        serving = self._serving
        if serving is not None and not serving.begun:
            self._serving = None
            serving.client_left()
            self._release()
            self._write_refusal(problem, self._head, since=self._since)
            self._close(LINGER)
        else:
            self._leave(Ending.REFUSED)
            reset(self.transport)

    def _limit_body(self) -> None:
        """Start the body deadline, unless the proxy or VB365 is what the body waits for."""
        waits = self._phase is _SERVING and self._invited and not self._reading.held
        if waits and not self._body.done:
            self._deadlines.set(_BODY, self._owner.head_timeout)
