"""Clients that read nothing: what is written to them stops, and counts (CONTRACT §12)."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from unittest.mock import MagicMock

import pytest
from aiohttp import web

from proxy.core.exports import match
from proxy.core.http.heads import Head
from proxy.core.routing import Decision, PassThrough, Rescue
from proxy.downstream.base import BaseConnection
from proxy.net.backlog import Backlog
from proxy.net.budget import Budget
from proxy.ports import WholeResponse
from proxy.ports.tracing import NoTracing
from proxy.rescue.call import RELAYED, Outcome
from proxy.rescue.exchange import Needs
from proxy.rescue.rescuer import Rescuer
from tests.support.proxies import Proxy, proxy_to, through
from tests.support.upstreams import Origin
from tests.support.wire import Peer, eventually
from tests.unit.downstream.test_server import decide as own
from tests.unit.downstream.test_server import silent

TARGET = b"/v8/RestoreSessions/1/organization/mailboxes/2/exporttopst"
FIELDS = b"Host: h\r\nAuthorization: Bearer x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SIZE = 16 << 20


async def full(proxy: Proxy) -> tuple[Peer, BaseConnection, int]:
    """A client that reads nothing, to which the system takes nothing more, and how many bytes of
    nothing it has taken. The proxy does not know that.
    """
    client = await proxy.connect(limit=1 << 12, receive_buffer=1 << 12)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await eventually(lambda: len(proxy.server._clients) == 1)
    [connection] = proxy.server._clients
    descriptor = connection.transport.get_extra_info("socket").fileno()
    taken = 0
    for _ in range(2):  # it may move some to the client, and take more
        try:
            while True:
                taken += os.write(descriptor, bytes(1 << 16))
        except BlockingIOError:
            await asyncio.sleep(0.05)
    return client, connection, taken


async def read_to_end(client: Peer, taken: int) -> None:
    """Read what the system has taken, the invitation, and a response of `SIZE` bytes."""
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len(await client.exactly(taken)) == taken
    assert await client.exactly(len(CONTINUE)) == CONTINUE
    await client.head()
    assert len(await client.exactly(SIZE)) == SIZE


def counted(proxy: Proxy, connection: BaseConnection) -> int:
    """The bytes that the client has not read, which must all count."""
    kept = connection.transport.get_write_buffer_size()
    assert proxy.server.unread._size == kept
    return kept


@pytest.mark.parametrize("kind", ["rescued", "relayed"])
async def test_14_an_export_begins_while_its_client_is_slow(kind: str) -> None:
    """The invitation to send the body finds that, before there is an exchange that could be told;
    and what it is relayed by connects to VB365 later still.
    """
    export = match(b"POST", TARGET, reports=True)
    assert export is not None

    def decide(head: Head) -> Decision:
        return Rescue(export, TARGET) if head.method == b"POST" else PassThrough(head.target)

    lines = b"Content-Length: %d\r\n" % SIZE
    asked = asyncio.Event()

    async def outcome(call: Any) -> Outcome:
        asked.set()
        return (
            RELAYED
            if kind == "relayed"
            else WholeResponse(200, b"OK", (), bytes(SIZE), lines=lines)
        )

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(2)
        asked.set()
        await peer.send(b"HTTP/1.1 200 OK\r\n%b\r\n" % lines)
        for _ in range(SIZE >> 20):
            await peer.send(bytes(1 << 20))

    following: Any = MagicMock(outcome=outcome)
    relay = MagicMock()
    needs = Needs(
        relay=relay,
        following=following,
        deliveries=MagicMock(),
        tracing=NoTracing(),
        memory=lambda _: Budget(1 << 20),
        max_body=1 << 20,
        trusted=(),
    )
    async with (
        Origin(script).running() as origin,
        proxy_to(origin.port, decide=decide, rescue=Rescuer(needs)) as proxy,
    ):
        relay.start = proxy.server.relay.start
        client, connection, taken = await full(proxy)
        await client.send(b"POST %b HTTP/1.1\r\n%b{}" % (TARGET, FIELDS))
        await asked.wait()
        await asyncio.sleep(0.2)
        assert counted(proxy, connection) < 1000
        await read_to_end(client, taken)
        await eventually(lambda: not counted(proxy, connection))


async def test_12_what_is_written_to_a_slow_client_counts() -> None:
    """aiohttp writes a small response at once, whether the client is slow or not."""

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        return web.Response(body=bytes(SIZE))

    async with through(silent, decide=own, handler=handler) as (proxy, _):
        client, connection, taken = await full(proxy)
        await client.send(b"POST /_own HTTP/1.1\r\n" + FIELDS)
        await eventually(lambda: connection.transport.get_write_buffer_size() > SIZE)
        counted(proxy, connection)
        await client.send(b"{}")
        await read_to_end(client, taken)
        await eventually(lambda: not counted(proxy, connection))


async def test_12_a_slow_client_that_cannot_be_counted_is_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For lack of memory. Both loops go on after any failure, so that VB365's whole response would
    gather in memory, without a time limit.
    """
    monkeypatch.setattr(Backlog, "add", MagicMock(side_effect=MemoryError))

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE >> 20):
            await peer.send(bytes(1 << 20))

    async with through(script) as (proxy, _):
        client, *_ = await full(proxy)
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await eventually(lambda: proxy.server.counters.broken == 1)
        assert proxy.pool.counts.received < SIZE // 2
        await eventually(lambda: not proxy.server._clients)
