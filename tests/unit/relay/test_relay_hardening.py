"""Attacks with well-formed requests (CONTRACT §12)."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.proxies import through
from tests.support.wire import LIMIT, Peer
from tests.transparency.reference import read_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
INSIDE = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
BODIES = [
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(INSIDE), INSIDE),
    b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(INSIDE), INSIDE),
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (len(INSIDE), INSIDE),
]


@pytest.mark.parametrize("raw", BODIES, ids=["POST", "GET", "chunks"])
async def test_12_no_request_follows_a_body_on_its_connection(raw: bytes) -> None:
    """§12 CL.0: an upstream that parses a body as a request cannot send its response to another
    client.
    """

    async def script(peer: Peer) -> None:
        while True:
            await read_request(peer)
            await peer.send(OK)

    async with through(script) as (proxy, origin):
        client = await proxy.ask(raw)
        assert (await client.response())[1] == b"ok"
        assert (proxy.pool.idle, proxy.pool.open) == (0, 0)
        other = await proxy.ask(GET)
        assert (await other.response())[1] == b"ok"
        assert origin.accepted == 2


async def test_12_a_client_that_waits_for_100_does_not_time_out() -> None:
    """§12: the client's body must advance only after the upstream's 100."""
    requested = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        requested.set()
        await asyncio.sleep(0.6)
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.exactly(4) == b"body"
        await peer.send(OK)

    async with through(script, head_timeout=0.2) as (proxy, _):
        client = await proxy.ask(
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        await asyncio.wait_for(requested.wait(), LIMIT)
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"body")
        assert (await client.response())[1] == b"ok"


async def test_12_a_body_that_stalls_after_100_times_out() -> None:
    """§12: a body that stalls is aborted, also after a 100."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.closed()

    async with through(script, head_timeout=0.2) as (proxy, _):
        client = await proxy.ask(
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await client.closed()
