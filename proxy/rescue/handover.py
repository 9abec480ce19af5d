"""Hands exports that may run as jobs to the worker that owns the jobs, and relays them to VB365 if
it ends before it responds: they are not refused because of the proxy (CONTRACT §14, §15
`--workers`).
"""

from __future__ import annotations

import logging

from proxy.core.errors import Problem
from proxy.core.http.heads import Head, MalformedMessage, ResponseHead
from proxy.core.routing import Rescue
from proxy.downstream.duplex import ClientSide, Exchange, Forwarded, Forwarder
from proxy.downstream.endings import Ending
from proxy.net.budget import Budget, Share
from proxy.relay.handover import HandedOver, HandoverRelay, introduced
from proxy.upstream.local_pool import LocalConnection

_log = logging.getLogger(__name__)


class HandoverRescuer:
    """Starts such exchanges. `memory` bounds the copies of all bodies, `max_body` each of them, in
    bytes.
    """

    def __init__(
        self, first: HandoverRelay, relay: Forwarder, *, memory: Budget, max_body: int
    ) -> None:
        self._first = first
        self.relay = relay
        self.memory = memory
        self.max_body = max_body

    def start(self, client: ClientSide, head: Head, decision: Rescue, *, whole: bool) -> Exchange:
        """Hand the export over. `whole`: no byte of a body follows.

        A client with a connection to VB365 of its own is relayed: its credentials are those of the
        connection.
        """
        if client.private is not None:
            return self.relay.start(client, head, decision.target, whole=whole)
        exchange = _HandedOverExport(self, self._first, client, head, decision, whole=whole)
        exchange.dial()
        return exchange


class _HandedOverExport(HandedOver):
    """An export that was handed over, with a copy of its body until there is a response."""

    __slots__ = ("_bodiless", "_copy", "_needs", "_relayed", "_target")

    def __init__(
        self,
        needs: HandoverRescuer,
        first: HandoverRelay,
        client: ClientSide,
        head: Head,
        decision: Rescue,
        *,
        whole: bool,
    ) -> None:
        message = introduced(client, head, head.target)
        super().__init__(first.pool(client), client, head, message, whole=whole)
        self._needs = needs
        self._target = decision.target
        self._bodiless = whole
        #: The body so far, as it was sent; None if it is too large, or not needed any more.
        self._copy: bytearray | None = bytearray()
        self._relayed: Forwarded | None = None

    @property
    def begun(self) -> bool:
        """Whether bytes of the final response are written."""
        return super().begun if self._relayed is None else self._relayed.begun

    def feed(self, data: bytes) -> None:
        """Forward bytes of the request's body."""
        if self._relayed is not None:
            self._relayed.feed(data)
            return
        if self._copy is not None:
            fits = len(self._copy) + len(data) <= self._needs.max_body
            if fits and self._needs.memory.take(len(data)):
                self._copy += data
            else:
                self._take_copy()
        super().feed(data)

    def end(self) -> None:
        """Note that the request is complete."""
        super().end()
        if self._relayed is not None:
            self._relayed.end()

    def client_left(self) -> None:
        """Close the connection: the client has left."""
        self._take_copy()
        super().client_left()
        if self._relayed is not None:
            self._relayed.client_left()

    def client_slow(self) -> None:
        """Pause reading for a client that reads slowly."""
        if self._relayed is not None:
            self._relayed.client_slow()
        else:
            super().client_slow()

    def client_ready(self) -> None:
        """Resume reading."""
        if self._relayed is not None:
            self._relayed.client_ready()
        else:
            super().client_ready()

    def no_answer(self) -> None:
        """Relay the request, whether or not it has become a job: the same request joins that."""
        self.fail(self.no_response())

    def fail(self, problem: Problem) -> None:
        """Relay the request: nothing of a response was written."""
        copy = self._take_copy()
        if copy is None:
            super().fail(problem)
            return
        _log.info("export not handed over, passed through")
        try:
            self._relay(bytes(copy))
        except MemoryError:  # the client would wait for ever
            self._client.break_off(Ending.ABORTED)

    def _relay(self, copy: bytes) -> None:
        self.release()
        self._relayed = self._needs.relay.start(
            self._client, self._head, self._target, whole=self._bodiless
        )
        if copy:
            memory = Share(self._needs.memory)
            memory.take(len(copy))  # what has just been given; if not, it is passed through as well
            self._relayed.feed_counted(copy, memory)
        if self._whole and not self._bodiless:
            self._relayed.end()

    def connection_ended(self, why: Exception | None) -> None:
        """Also handle the proper end of a response without a length."""
        if why is None and self._response is not None:
            self._keep_connection()
        super().connection_ended(why)

    def _finish(self, rest: bytes) -> None:
        self._keep_connection()
        super()._finish(rest)

    def _keep_connection(self) -> None:
        """Let the first worker know whether the client receives the response (CONTRACT §14)."""
        connection, self._connection = self._connection, None
        if isinstance(connection, LocalConnection):
            self._client.delivered = connection.keep()

    def _malformed(self, why: MalformedMessage) -> None:
        self._take_copy()
        super()._malformed(why)

    def _begin(self, response: ResponseHead, rest: bytes) -> None:
        self._take_copy()
        super()._begin(response, rest)

    def _take_copy(self) -> bytearray | None:
        """The body so far, which is not kept any longer."""
        copy, self._copy = self._copy, None
        if copy is not None:
            self._needs.memory.give(len(copy))
        return copy
