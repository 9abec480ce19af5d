"""Connections of the admin listener, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from proxy.admin.guard import TokenGuard
from proxy.admin.listener import Admin, Checks, listen, runner
from tests.support.loops import run as run
from tests.support.tls_peers import Run
from tests.support.wire import eventually

_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_TOKEN = b" /slow HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\n"
_SLOW = b"GET" + _TOKEN + b"\r\n"
_CHANGE = b"POST" + _TOKEN + b"X-VB365-Admin: 1\r\n\r\n"

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Peer]]


async def _healthy() -> dict[str, str | None]:
    return {}


@asynccontextmanager
async def listening(
    checks: Checks = _healthy, routes: Sequence[web.RouteDef] = ()
) -> AsyncIterator[Connect]:
    """A listener for three connections. Yields the function that opens one."""
    guard = TokenGuard("token", lambda: 0.0)
    admin = Admin(checks=checks, hosts=(), guard=guard, routes=routes, max_connections=3)
    serving = runner(admin.application())
    await serving.setup()
    server = await listen(serving, admin.connections, "127.0.0.1", 0)
    peers: list[Peer] = []

    async def connect() -> Peer:
        peers.append(await asyncio.open_connection(*server.sockets[0].getsockname()))
        return peers[-1]

    try:
        yield connect
    finally:  # uvloop does not close with open transports
        for _, writer in peers:
            writer.transport.abort()
        server.close()
        await serving.cleanup()


async def is_alive(connect: Connect) -> bool:
    """Whether a new connection gets a response, after which it is closed."""
    reader, writer = await connect()
    writer.write(_HEALTH)
    alive = (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.transport.abort()
    return alive


@pytest.mark.parametrize("requests", [0, 1])
def test_16_clients_that_wait_make_room_for_others(run: Run, requests: int) -> None:
    """Silent, or idle after a response: strangers must not keep the health checks away."""

    async def scenario() -> None:
        async with listening() as connect:
            peers = [await connect() for _ in range(3)]
            for reader, writer in peers[: 3 * requests]:
                writer.write(_HEALTH)
                await reader.readuntil(b"}")
            for _ in range(3):
                assert await is_alive(connect)
            assert not await peers[0][0].read()

    run(scenario())


def test_16_requests_that_wait_for_a_check_make_room_for_others(run: Run) -> None:
    """While VB365 does not respond, strangers who ask for /readyz do not keep /healthz away, and
    each of them costs nothing once its connection is closed.
    """

    async def scenario() -> None:
        waiting, checked = 0, asyncio.Event()

        async def checks() -> dict[str, str | None]:
            nonlocal waiting
            waiting += 1
            try:
                await checked.wait()
            finally:
                waiting -= 1
            return {}

        async with listening(checks) as connect:
            peers = [await connect() for _ in range(3)]
            for _, writer in peers:
                writer.write(_READY)
            await eventually(lambda: waiting == 3)
            assert await is_alive(connect)
            assert not await peers[0][0].read()
            await eventually(lambda: waiting == 2)
            checked.set()
            assert (await peers[2][0].readline()).startswith(b"HTTP/1.1 200")

    run(scenario())


def test_16_bodies_that_do_not_arrive_take_no_place_once_they_have_made_room(run: Run) -> None:
    """aiohttp waits for the rest without a connection. Anyone can send such requests."""
    begun = b"POST /login HTTP/1.1\r\nHost: h.example\r\nContent-Length: 9\r\n\r\n1"

    async def scenario() -> None:
        async with listening() as connect:
            peers = [await connect() for _ in range(3)]
            for reader, writer in peers:
                writer.write(begun)
                assert (await reader.readline()).startswith(b"HTTP/1.1 421")
            for _ in range(5):
                assert await is_alive(connect)
                await asyncio.sleep(0.05)  # the listener notices that the client has left

    run(scenario())


def test_16_requests_that_only_read_make_room_for_others(run: Run) -> None:
    """As those of /metrics, which wait for VB365 and the stores: none keeps /healthz away."""

    async def scenario() -> None:
        handled, gate = 0, asyncio.Event()

        async def slow(request: web.Request) -> web.Response:
            nonlocal handled
            handled += 1
            try:
                await gate.wait()
            finally:
                handled -= 1
            return web.Response()

        async with listening(routes=[web.get("/slow", slow)]) as connect:
            peers = [await connect() for _ in range(3)]
            for _, writer in peers:
                writer.write(_SLOW)
            await eventually(lambda: handled == 3)
            assert await is_alive(connect)
            await eventually(lambda: handled == 2)
            gate.set()
            assert (await peers[2][0].readline()).startswith(b"HTTP/1.1 200")

    run(scenario())


def test_16_clients_that_send_nothing_make_room_before_requests_that_are_handled(run: Run) -> None:
    """/readyz waits for VB365: a storm of connections must not close it meanwhile."""

    async def scenario() -> None:
        waiting, checked = 0, asyncio.Event()

        async def checks() -> dict[str, str | None]:
            nonlocal waiting
            waiting += 1
            await checked.wait()
            return {}

        async with listening(checks) as connect:
            reader, writer = await connect()
            writer.write(_READY)
            await eventually(lambda: waiting == 1)
            for _ in range(9):
                await connect()
            assert await is_alive(connect)
            checked.set()
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    run(scenario())


def test_16_requests_that_change_something_keep_their_connections(run: Run) -> None:
    """They are not closed while they are handled. Only some are, so that those who send many of
    them do not keep /healthz away; the others wait, and make room.
    """

    async def scenario() -> None:
        started, done, gate = 0, 0, asyncio.Event()

        async def slow(request: web.Request) -> web.Response:
            nonlocal started, done
            started += 1
            await gate.wait()
            done += 1
            return web.Response()

        async with listening(routes=[web.post("/slow", slow)]) as connect:
            peers = [await connect() for _ in range(3)]
            for _, writer in peers:
                writer.write(_CHANGE)
            await eventually(lambda: started > 0)
            assert await is_alive(connect)
            assert not await peers[1][0].read()
            assert (started, done) == (1, 0)
            gate.set()
            for reader, _ in (peers[0], peers[2]):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert (started, done) == (2, 2)

    run(scenario())


def test_16_clients_without_a_token_do_not_use_the_turns_of_changes(run: Run) -> None:
    """Nor do login forms that do not arrive, which anyone can send."""
    form = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1"

    async def changed(request: web.Request) -> web.Response:
        return web.Response()

    async def scenario() -> None:
        async with listening(routes=[web.post("/slow", changed)]) as connect:
            for _ in range(2):
                (await connect())[1].write(form)
            reader, writer = await connect()
            writer.write(_CHANGE)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    run(scenario())


def test_16_a_client_that_leaves_before_100_continue_is_no_error_in_the_log(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Any number of strangers can do so: aiohttp sends it before the request is handled."""

    async def leaves(request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def never(request: web.Request) -> web.Response:
        raise AssertionError

    async def scenario() -> None:
        async with listening(routes=[web.post("/slow", never, expect_handler=leaves)]) as connect:
            reader, writer = await connect()
            expects = b"\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
            writer.write(_CHANGE.replace(b"\r\n\r\n", expects))
            assert not await reader.read()
            assert await is_alive(connect)

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert not caplog.records
