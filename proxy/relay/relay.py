"""Passes requests through to VB365 (CONTRACT §12)."""

from __future__ import annotations

from proxy.core.http.authority import origin_form
from proxy.core.http.heads import Head
from proxy.core.http.outbound import Forwarding, request_bytes
from proxy.downstream.duplex import ClientSide
from proxy.relay.exchange import Exchange
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool


class Relay:
    """Passes requests through to the origin of `pool`. `forwarded` appends X-Forwarded-*, Via."""

    def __init__(self, pool: Pool, *, forwarded: bool = False) -> None:
        self.pool = pool
        self._forwarded = forwarded

    def start(self, client: ClientSide, head: Head, target: bytes, *, whole: bool) -> Exchange:
        """Forward the request with this target. `whole`: no byte of a body follows."""
        forwarding = Forwarding(client.peer, client.scheme) if self._forwarded else None
        host = self.pool.imposed_host
        if host is not None:
            # the absolute form would name the host that the client wrote
            target = origin_form(head.method, target)
        message = request_bytes(head, target, host=host, forwarding=forwarding)
        head.kept = b""  # the message has them: only `block` counts in the budget for heads
        exchange = Exchange(self.pool, client, head, message, whole=whole)
        private, client.private = client.private, None
        connection = self.pool.take(head, private if isinstance(private, Connection) else None)
        if connection is not None:
            exchange.send_on(connection)
        else:
            exchange.dial()
        return exchange
