"""Whether a client has received the whole of a response (CONTRACT §14): `ClientSide.delivered`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from proxy.core.exports import match
from proxy.core.http.heads import Head
from proxy.core.routing import Decision, Rescue
from proxy.downstream import lingering
from proxy.downstream.duplex import ClientSide
from proxy.downstream.introduction import Introduction
from proxy.downstream.server import Server
from proxy.net.budget import Budget
from tests.support.wire import LIMIT

TARGET = b"/v8/RestoreSessions/1/organization/mailboxes/2/exporttopst"
SIZE = 8 << 20


def decide(head: Head) -> Decision:
    export = match(b"POST", TARGET, reports=True)
    assert export is not None
    return Rescue(export, TARGET)


class Exporting:
    """Responds to each request with a file, and hears whether its client has received it."""

    begun = True

    def __init__(self, size: int = SIZE, *, keep: bool = True) -> None:
        self.size = size
        self.keep = keep
        self.delivered: list[bool] = []
        self.written = asyncio.Event()

    def start(self, client: ClientSide, *_: object, **__: object) -> Any:
        asyncio.get_running_loop().call_soon(self._respond, client)
        return self

    def _respond(self, client: ClientSide) -> None:
        client.code = 200
        close = b"" if self.keep else b"Connection: close\r\n"
        client.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (close, self.size))
        client.responding()
        client.write(bytes(self.size))
        client.delivered = self.delivered.append
        client.answered(keep=self.keep)
        self.written.set()

    def end(self) -> None: ...
    def client_left(self) -> None: ...
    def client_slow(self) -> None: ...
    def client_ready(self) -> None: ...


@contextlib.asynccontextmanager
async def connected(
    exporting: Exporting, *, handed_over: bool = False, **times: float
) -> AsyncIterator[tuple[Server, socket.socket]]:
    """A server, and a socket of its client, which has sent its request and reads nothing yet."""

    async def nothing(*_: object) -> web.StreamResponse:
        raise AssertionError

    server = Server(
        handler=nothing,
        relay=None,  # type: ignore[arg-type]
        decide=decide,
        waiting=Budget(1 << 20),
        rescue=exporting,
        **times,  # type: ignore[arg-type]
    )
    request = b"POST / HTTP/1.1\r\nHost: h\r\n\r\n"
    theirs, mine = socket.socketpair()
    theirs.setblocking(False)
    mine.setblocking(False)
    client: Any = server()
    if handed_over:
        server.arrive(client, handed_over=True)
        protocol: Any = Introduction(client, b"http")
        request = b"PROXY UNKNOWN abc\r\n" + request
    else:
        protocol = client
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, theirs)
    with mine:
        await loop.sock_sendall(mine, request)
        await asyncio.wait_for(exporting.written.wait(), LIMIT)
        try:
            yield server, mine
        finally:
            transport.abort()
            await asyncio.sleep(0.05)


async def read(client: socket.socket, size: int) -> None:
    """Read that many bytes of a file, and the head before it."""
    loop, got = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(LIMIT):
        while (end := got.find(b"\r\n\r\n")) < 0 or len(got) - end - 4 < size:
            piece = await loop.sock_recv(client, 1 << 18)
            assert piece
            got += piece


async def test_14_a_handed_over_connection_is_never_idle() -> None:
    """Nor if its response waited for its client: the other process tells when that has received it,
    which may be later than the client may be idle.
    """
    exporting = Exporting()
    async with connected(exporting, handed_over=True, idle_timeout=0.1) as (_, client):
        await read(client, SIZE)
        await asyncio.sleep(0.4)
        assert exporting.delivered == []
        await asyncio.get_running_loop().sock_sendall(client, b"\r\n")
        await asyncio.sleep(0.05)
        assert exporting.delivered == [True]


async def test_12_the_process_of_a_client_decides_how_long_it_may_read_nothing() -> None:
    """A handed-over connection is read in bursts of what the system of the other process takes."""
    exporting = Exporting()
    async with connected(exporting, handed_over=True, head_timeout=0.02) as (_, client):
        await asyncio.sleep(0.4)
        await read(client, SIZE)
        await asyncio.get_running_loop().sock_sendall(client, b"\r\n")
        await asyncio.sleep(0.05)
        assert exporting.delivered == [True]


@pytest.mark.parametrize("size", [1000, SIZE])
async def test_14_a_client_that_is_silent_because_it_reads_receives_its_file(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `Connection: close` too: the proxy waited two seconds for it to close."""
    monkeypatch.setattr(lingering, "QUIET", 0.1)
    exporting = Exporting(size, keep=False)
    async with connected(exporting) as (_, client):
        await asyncio.sleep(0.5)
        assert exporting.delivered == []
        await read(client, size)
        await asyncio.sleep(0.5)
        assert exporting.delivered == [True]


async def test_14_a_stop_does_not_wait_for_a_client_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "QUIET", 0.1)
    exporting = Exporting(keep=False)
    async with connected(exporting) as (server, _):
        stopping = asyncio.create_task(server.drain(1.0))
        await asyncio.wait_for(stopping, LIMIT)
        await asyncio.sleep(0.3)
        assert exporting.delivered == [False]
