"""The pool of connections to VB365: the checks before a connection is reused (CONTRACT §12)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.core.http.heads import Head, parse_request, parse_response
from proxy.ports import UpstreamTimedOut
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool
from tests.support.wire import LIMIT, eventually


def request(method: bytes = b"GET", fields: bytes = b"") -> Head:
    return parse_request(method + b" / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n")


GET = request()
NTLM = request(fields=b"Authorization: NTLM TlRM\r\n")
OK = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET")


class Receiver:
    """Takes what comes for it."""

    def __init__(self) -> None:
        self.got = b""
        self.ended = False

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_ended(self, why: Exception | None) -> None:
        self.ended = True

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


@contextlib.asynccontextmanager
async def listening(
    limit: int = 0, max_idle: int = 0
) -> AsyncIterator[tuple[Pool, Callable[[], socket.socket]]]:
    """A pool, and a function that accepts its peer in this thread, so that nothing is read before
    the test lets the loop run.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as peers:
        port = listener.getsockname()[1]
        pool = Pool("127.0.0.1", port, connect_timeout=0.5, limit=limit, max_idle=max_idle)
        yield pool, lambda: peers.enter_context(listener.accept()[0])
        await pool.close()


async def used(pool: Pool, head: Head = GET) -> tuple[Connection, bool]:
    """Serve `request` and return the connection and whether it is now private."""
    connection = await pool.connect()
    connection.ask(Receiver(), head, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    return connection, connection.give_back(OK, leftover=False)


async def test_12_an_idle_connection_is_reused() -> None:
    async with listening() as (pool, accept):
        connection, private = await used(pool)
        accept()
        assert (private, pool.idle) == (False, 1)
        assert pool.take(GET) is connection
        connection.close()


@pytest.mark.parametrize(
    "what", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", b"\0", None]
)
@pytest.mark.parametrize("request_", [GET, NTLM], ids=["shared", "private"])
async def test_12_unread_bytes_or_an_end_in_the_kernel_prevent_reuse(
    what: bytes | None, request_: Head
) -> None:
    """The loop has not read them yet when the next request arrives."""
    async with listening() as (pool, accept):
        connection, private = await used(pool, request_)
        peer = accept()
        if what is None:
            peer.shutdown(socket.SHUT_WR)
        else:
            peer.send(what)
        assert pool.take(request_, connection if private else None) is None
        assert (connection.closed, pool.open) == (True, 0)


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"X"])
async def test_12_unsafe_requests_get_no_used_connection(method: bytes) -> None:
    async with listening() as (pool, _):
        await used(pool)
        assert pool.take(request(method)) is None
        assert pool.take(request(fields=b"Content-Length: 1\r\n")) is None
        assert pool.idle == 1


async def test_12_a_connection_with_paused_reading_is_not_reused() -> None:
    """Bytes may be buffered above the socket, where no check finds them."""
    async with listening() as (pool, _):
        connection = await pool.connect()
        connection.ask(Receiver(), GET, b"x")
        connection.pause()
        assert not connection.give_back(OK, leftover=False)
        assert pool.open == 0


async def test_12_a_private_connection_serves_its_client_only() -> None:
    async with listening() as (pool, _):
        connection, private = await used(pool, NTLM)
        assert private
        assert pool.take(GET) is None
        assert pool.take(GET, connection) is connection
        # once private, always private
        connection.ask(Receiver(), GET, b"x")
        assert connection.give_back(OK, leftover=False)
        assert pool.take(GET) is None
        connection.close()
        assert pool.take(GET, connection) is None
        assert pool.open == 0


async def test_15_the_oldest_idle_connection_is_closed_beyond_their_limit() -> None:
    """Else they and the files of downloads would take the descriptors of connected clients."""
    async with listening(max_idle=2) as (pool, _):
        heads = (GET, NTLM, GET, NTLM)
        busy = [await pool.connect() for _ in heads]
        for connection, head in zip(busy, heads, strict=True):
            connection.ask(Receiver(), head, b"x")
            assert connection.give_back(OK, leftover=False) == (head is NTLM)
        assert [connection.closed for connection in busy] == [True, False, True, False]
        assert (pool.open, pool.idle) == (2, 2)


async def test_12_an_idle_private_connection_is_closed_when_the_pool_is_full() -> None:
    async with listening(limit=1) as (pool, _):
        first, private = await used(pool, NTLM)
        second = await asyncio.wait_for(pool.connect(), LIMIT)
        assert (private, first.closed, pool.open) == (True, True, 1)
        second.close()


async def leaving(pool: Pool, accept: Callable[[], socket.socket]) -> Connection:
    """A connection that is closed while VB365 does not read what is written."""
    connection = await pool.connect()
    accept()
    connection.ask(Receiver(), GET, bytes(8 << 20))
    connection.close(flush=True)
    return connection


async def test_15_a_closed_connection_counts_until_it_has_ended() -> None:
    """Else clients that leave their tunnels could use any number of descriptors."""
    async with listening() as (pool, accept):
        connection = await leaving(pool, accept)
        await asyncio.sleep(0)
        assert (connection.closed, pool.open) == (True, 1)
        connection.transport.abort()
        await eventually(lambda: pool.open == 0)
        quick = await pool.connect()
        quick.close(flush=True)
        await eventually(lambda: pool.open == 0)


@pytest.mark.parametrize("waits", [False, True])
async def test_15_a_closed_connection_makes_room_for_another(waits: bool) -> None:
    async with listening(limit=1) as (pool, accept):
        if waits:
            first = await pool.connect()
            waiting = asyncio.create_task(pool.connect())
            await asyncio.sleep(0)
            accept()
            first.ask(Receiver(), GET, bytes(8 << 20))
            first.close(flush=True)
        else:
            first = await leaving(pool, accept)
            waiting = asyncio.create_task(pool.connect())
        second = await asyncio.wait_for(waiting, LIMIT)
        assert (first.transport.get_write_buffer_size(), pool.open) == (0, 1)
        await asyncio.sleep(0)
        second.close()
        assert pool.open == 0


async def test_15_whoever_has_waited_longest_for_a_connection_is_next() -> None:
    """Not who asks at the moment when there is one."""
    async with listening(limit=1) as (pool, _):
        first = await pool.connect()
        served = []

        async def connect(who: int) -> None:
            connection = await pool.connect()
            served.append(who)
            later.append(asyncio.create_task(connect(who + 3))) if who < 3 else None
            connection.close()

        later = [asyncio.create_task(connect(who)) for who in range(3)]
        await asyncio.sleep(0)
        first.close()
        await connect(3)
        await asyncio.gather(*later)
        assert served[:3] == [0, 1, 2]
        assert (len(served), pool.open) == (7, 0)


async def test_15_whoever_has_given_up_waiting_is_forgotten() -> None:
    async with listening(limit=1) as (pool, _):
        connection = await pool.connect()
        connection.ask(Receiver(), GET, b"x")
        for _ in range(3):
            with pytest.raises(UpstreamTimedOut):
                await pool.connect()
        connection.give_back(OK, leftover=False)
        assert (pool.open, pool.idle) == (1, 1)


@pytest.mark.parametrize("chosen", [False, True])
async def test_15_whoever_leaves_while_it_waits_takes_no_connection(chosen: bool) -> None:
    async with listening(limit=1) as (pool, _):
        first = await pool.connect()
        waiting = [asyncio.create_task(pool.connect()) for _ in range(2)]
        await asyncio.sleep(0)
        if chosen:
            first.close()
        waiting[0].cancel()
        if not chosen:
            first.close()
        second = await asyncio.wait_for(waiting[1], LIMIT)
        assert (waiting[0].cancelled(), pool.open) == (True, 1)
        second.close()
        assert pool.open == 0


async def test_12_a_private_connection_ends_with_the_upstream_or_the_pool() -> None:
    async with listening() as (pool, accept):
        connection, _ = await used(pool, NTLM)
        accept().close()
        await eventually(lambda: connection.closed)
        other, _ = await used(pool, NTLM)
        await pool.close()
        assert (other.closed, pool.open) == (True, 0)
