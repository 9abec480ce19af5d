"""The phases of a relayed exchange, and the reasons for which a request's body is held."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tracemalloc
from collections.abc import AsyncIterator
from typing import cast

from proxy.core.http.heads import Head, parse_request
from proxy.downstream.duplex import ClientSide
from proxy.relay.exchange import Exchange
from proxy.relay.relay import Relay
from proxy.upstream.pool import Pool
from tests.support.wire import LIMIT, eventually

GET = b"GET /v8/x?secret=1 HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /v8/x?secret=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"


class Written:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class Client:
    """A client connection that notes what the exchange asks of it."""

    def __init__(self) -> None:
        self.transport = Written()
        self.peer, self.scheme = b"127.0.0.1", b"http"
        self.closing = self.slow = False
        self.private = None
        self.sent = 0
        self.code = 0
        self.held = False
        self.ends: list[str] = []

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def hold(self) -> None:
        self.held = True

    def unhold(self) -> None:
        self.held = False

    def note_job(self, head: bytes) -> None:
        """Nothing to note."""

    def tunnel(self) -> None:
        self.ends.append("tunnel")

    def responding(self) -> None:
        """Nothing to note."""

    def interim(self, data: bytes) -> None:
        self.transport.write(data)

    def answered(self, *, keep: bool) -> None:
        self.ends.append(f"answered {keep}")

    def problem(self, problem: object) -> None:
        self.ends.append("problem")

    def break_off(self, why: object) -> None:
        self.ends.append("broken")


@contextlib.asynccontextmanager
async def started(
    head: Head, *, whole: bool
) -> AsyncIterator[tuple[Exchange, Client, socket.socket]]:
    """An exchange that is dialling, its client, and the listener it dials to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        pool, client = Pool("127.0.0.1", listener.getsockname()[1]), Client()
        exchange = Relay(pool).start(cast("ClientSide", client), head, head.target, whole=whole)
        yield exchange, client, listener
        exchange.client_left()
        await pool.close()


async def accepted(listener: socket.socket) -> socket.socket:
    return (await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), LIMIT))[0]


def shown(exchange: Exchange) -> str:
    """The phase and the reasons, as an operator sees them."""
    return repr(exchange).removesuffix(">").partition("/v8/x ")[2]


async def test_an_exchange_shows_each_phase() -> None:
    async with started(parse_request(POST), whole=False) as (exchange, client, listener):
        assert repr(exchange) == "<Exchange POST /v8/x dialling>"
        exchange.feed(b"ab")
        assert (shown(exchange), client.held, exchange.begun) == (
            "dialling held=dialling",
            True,
            False,
        )
        with await accepted(listener) as peer:
            await eventually(lambda: shown(exchange) == "waiting for VB365")
            assert not client.held
            exchange.feed(b"cde")
            exchange.end()
            got = b""
            while not got.endswith(b"\r\n\r\nabcde"):
                got += await asyncio.wait_for(
                    asyncio.get_running_loop().sock_recv(peer, 4096), LIMIT
                )
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
            await eventually(lambda: shown(exchange) == "responding 200")
            assert exchange.begun
            peer.send(b"k")
            await eventually(lambda: shown(exchange) == "ended 200")
            assert client.ends == ["answered True"]


async def test_a_body_is_read_again_when_no_reason_to_hold_it_is_left() -> None:
    async with started(parse_request(POST), whole=False) as (exchange, client, listener):
        with await accepted(listener) as peer:
            await eventually(lambda: shown(exchange) == "waiting for VB365")
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            exchange.pause_writing()
            exchange.feed(b"abcde")
            assert shown(exchange) == "waiting for VB365 held=response,slow"
            await eventually(lambda: shown(exchange) == "waiting for VB365 held=slow")
            assert client.held
            exchange.resume_writing()
            assert (shown(exchange), client.held) == ("waiting for VB365", False)
            exchange.pause_writing()
            assert client.held


async def test_every_failure_and_a_client_that_leaves_end_an_exchange() -> None:
    async with started(parse_request(GET), whole=True) as (exchange, client, listener):
        (await accepted(listener)).close()
        await eventually(lambda: shown(exchange) == "ended")
        assert client.ends == ["problem"]
    async with started(parse_request(GET), whole=True) as (exchange, client, listener):
        with await accepted(listener) as peer:
            peer.send(b"no HTTP\r\n\r\n")
            await eventually(lambda: shown(exchange) == "ended")
            assert client.ends == ["problem"]
    async with started(parse_request(GET), whole=True) as (exchange, client, listener):
        with await accepted(listener) as peer:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
            await eventually(lambda: shown(exchange) == "responding 200")
        await eventually(lambda: shown(exchange) == "ended 200")
        assert client.ends == ["broken"]
    async with started(parse_request(GET), whole=True) as (exchange, client, listener):
        listener.close()
        await eventually(lambda: shown(exchange) != "dialling")
        exchange.client_left()
        assert shown(exchange) == "ended"


async def test_12_a_request_whose_response_is_awaited_takes_the_memory_that_counts() -> None:
    """The budget for the heads of all clients counts the field lines once."""
    lines = b"".join(b"X-%d: %b\r\n" % (line, b"x" * 60_000) for line in range(4))
    piece = bytearray(1 << 16)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        raw = b"GET /v8/x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n" + lines + b"\r\n"
        head, size = parse_request(raw), len(raw)
        del raw
        async with started(head, whole=True) as (exchange, _, listener):
            with await accepted(listener) as peer:
                got = 0
                while got < size - len(b"Connection: keep-alive\r\n"):
                    got += await asyncio.get_running_loop().sock_recv_into(peer, piece)
                await eventually(lambda: shown(exchange) == "waiting for VB365")
                assert tracemalloc.get_traced_memory()[0] - before < 1.5 * size
    finally:
        tracemalloc.stop()
