"""Connections to VB365 that are opened before their request is ready (CONTRACT §14)."""

from __future__ import annotations

import asyncio

import pytest

from proxy.ports import Response, UpstreamUnreachable
from proxy.upstream.client import HttpUpstream, PreparedRequest
from proxy.upstream.pool import Pool
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer, eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def serve(peer: Peer) -> None:
    await peer.message()
    await peer.send(OK)


async def silent(peer: Peer) -> None:
    await peer.closed()


async def sent(prepared: PreparedRequest) -> Response:
    fields = ((b"Host", b"h"),)
    return await prepared.send(b"POST", b"/x", fields, b"{}", timeout=LIMIT, stall=LIMIT)


def pool_of(origin: Origin) -> Pool:
    return Pool("127.0.0.1", origin.port)


async def test_the_request_goes_over_the_connection_that_was_opened_before() -> None:
    async with Origin(serve).running() as origin:
        pool = pool_of(origin)
        prepared = HttpUpstream(pool).prepare()
        await eventually(lambda: origin.accepted == 1)
        response = await sent(prepared)
        prepared.close()
        assert (response.status, await response.read()) == (200, b"ok")
        assert origin.accepted == 1
        await eventually(lambda: pool.open == 0)


async def test_a_connection_that_vb365_has_closed_meanwhile_is_replaced() -> None:
    async def once(peer: Peer) -> None:
        if origin.accepted > 1:
            await serve(peer)

    async with Origin(once).running() as origin:
        pool = pool_of(origin)
        prepared = HttpUpstream(pool).prepare()
        await eventually(lambda: origin.accepted == 1 and pool.open == 0)
        assert (await sent(prepared)).status == 200
        assert origin.accepted == 2


async def test_a_connection_without_a_request_is_closed() -> None:
    async with Origin(silent).running() as origin:
        pool = pool_of(origin)
        early, late = HttpUpstream(pool).prepare(), HttpUpstream(pool).prepare()
        early.close()
        early.close()
        await eventually(lambda: origin.accepted >= 1)
        late.close()
        await eventually(lambda: pool.open == 0)


async def test_a_request_that_is_cancelled_leaves_no_connection() -> None:
    async with Origin(silent).running() as origin:
        pool = pool_of(origin)
        for steps in range(5):
            prepared = HttpUpstream(pool).prepare()
            sending = asyncio.create_task(sent(prepared))
            for _ in range(steps):
                await asyncio.sleep(0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            prepared.close()
        await eventually(lambda: pool.open == 0)


async def test_a_failure_to_connect_is_that_of_the_request() -> None:
    async with Origin(serve).running() as origin:
        pool = pool_of(origin)
    prepared = HttpUpstream(pool).prepare()
    with pytest.raises(UpstreamUnreachable) as why:
        await sent(prepared)
    assert not why.value.delivered
