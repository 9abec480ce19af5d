"""Hands requests to the worker that owns the jobs, over a Unix socket (CONTRACT §15 `--workers`).

They are relayed as those to VB365 are, on a connection of their own, which begins with the client's
address. The path of the socket tells the scheme of the client's connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from proxy.core.errors import Problem
from proxy.core.exports import match
from proxy.core.http.heads import Head, ResponseHead
from proxy.core.http.proxy_line import proxy_line
from proxy.downstream.duplex import ClientSide
from proxy.downstream.endings import Ending
from proxy.downstream.request_ids import request_id
from proxy.ports import UpstreamFailure
from proxy.relay.exchange import Exchange
from proxy.upstream.local_pool import LocalPool

#: Retry-After in seconds while the worker that owns the jobs is replaced.
_RETRY_AFTER = 2


class HandoverRelay:
    """Hands requests over. `paths` are those of the sockets by scheme; `timeout` is in seconds."""

    def __init__(self, paths: Mapping[bytes, Path], *, timeout: float) -> None:
        self._pools = {
            scheme: LocalPool(path, connect_timeout=timeout) for scheme, path in paths.items()
        }

    def start(self, client: ClientSide, head: Head, target: bytes, *, whole: bool) -> Exchange:
        """Hand the request over. `whole`: no byte of a body follows."""
        message = introduced(client, head, target)
        exchange = HandedOver(self.pool(client), client, head, message, whole=whole)
        exchange.dial()
        return exchange

    def pool(self, client: ClientSide) -> LocalPool:
        """The connections on which requests of this client are handed over."""
        return self._pools[client.scheme]

    async def close(self) -> None:
        """Close connections that are not in use."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))


def introduced(client: ClientSide, head: Head, target: bytes) -> bytes:
    """The request's head after the line with the client's address. It has all fields as received:
    the worker that owns the jobs decides what those that Connection names are for, as it does for
    its own clients.
    """
    about = client.transport.get_extra_info
    line = proxy_line(about("peername"), about("sockname"), request_id(head))
    return line + b"%b %b HTTP/1.%d\r\n%b\r\n" % (head.method, target, head.minor, head.block)


class HandedOver(Exchange):
    """A request that was handed over."""

    __slots__ = ()

    def _begin(self, response: ResponseHead, rest: bytes) -> None:
        """Also note which job the response is about."""
        self._client.note_job(response.block)
        super()._begin(response, rest)

    def no_answer(self) -> None:
        """End: the worker has ended. A whole kick-off may have become a job, so its connection is
        broken off: after a 503 the client would start the export again. With an Idempotency-Key
        that gets the same job.
        """
        head = self._head
        export = match(head.method, head.target, reports=True)
        if export is None or not self._whole or head.get_all(b"idempotency-key"):
            super().no_answer()
        else:
            self._client.break_off(Ending.ABORTED)

    @staticmethod
    def not_connected(failure: UpstreamFailure) -> Problem:
        """Return the 503 for a request that could not be sent."""
        return _away()

    @staticmethod
    def no_response() -> Problem:
        """Return the 503 for a request whose connection was closed."""
        return _away()


def _away() -> Problem:
    return Problem(
        "store-unavailable",
        "The process that runs the exports has ended and is being replaced. Try again.",
        retry_after=_RETRY_AFTER,
    )
