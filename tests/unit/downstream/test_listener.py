"""Accepting, counting and timing client connections (CONTRACT §15 `listen`)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, Own, PassThrough
from proxy.downstream import listener
from proxy.downstream.base import BaseConnection
from proxy.downstream.server import Server
from proxy.net import listening
from proxy.net.descriptors import EXTRA_CONNECTIONS, share
from proxy.net.listening import listen_at
from proxy.relay.handover import HandoverRelay
from tests.support.proxies import Proxy, proxy_to, through
from tests.support.tls_peers import server_side
from tests.support.wire import LIMIT, Peer, eventually

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def upstream(peer: Peer) -> None:
    while True:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def silent_connection(proxy: Proxy) -> Peer:
    """A connection that sends nothing, not even the beginning of a TLS handshake."""
    return Peer(*await asyncio.open_connection("127.0.0.1", proxy.port))


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_15_a_handshake_that_is_not_finished_in_time_is_aborted(
    localhost: trustme.LeafCert, trust: ssl.SSLContext
) -> None:
    async with through(
        upstream,
        server_tls=server_side(localhost),
        client_tls=trust,
        handshake_timeout=0.3,
        head_timeout=20,
    ) as (proxy, _):
        silent = await silent_connection(proxy)
        begun = await silent_connection(proxy)
        await begun.send(b"\x16\x03\x01")
        await eventually(lambda: proxy.server.open == 2)
        assert await silent.closed()
        assert await begun.closed()
        await eventually(lambda: proxy.server.open == 0)
        assert (await (await proxy.ask(GET)).response())[1] == b"ok"
        for peer in (silent, begun):
            await peer.close()


async def test_15_unfinished_handshakes_count_as_connections(
    localhost: trustme.LeafCert, trust: ssl.SSLContext
) -> None:
    """One more than `max_connections` gets 503 after its own handshake; earlier clients are
    served.
    """
    async with through(
        upstream, server_tls=server_side(localhost), client_tls=trust, max_connections=3
    ) as (proxy, _):
        first = await proxy.ask(GET)
        await first.response()
        silent = [await silent_connection(proxy) for _ in range(2)]
        await eventually(lambda: proxy.server.open == 3)
        turned = await proxy.connect()
        assert (await turned.rest()).startswith(b"HTTP/1.1 503 ")
        await first.send(GET)
        assert (await first.response())[1] == b"ok"
        for peer in silent:
            peer.abort()
        await turned.close()
        await eventually(lambda: proxy.server.open == 1)
        assert (await (await proxy.ask(GET)).response())[1] == b"ok"


async def test_15_a_full_worker_serves_clients_of_other_workers(tmp_path: Path) -> None:
    """They are within the limit of the worker that has accepted them, and take no place of the
    first one's own clients.
    """

    def own(head: Head) -> Decision:
        return Own("/own", None, "", None)

    async def handler(request: web.BaseRequest, head: Head, decision: Decision) -> web.Response:
        return web.Response(text="own")

    handover = HandoverRelay({b"http": tmp_path / "first"}, timeout=LIMIT)
    async with (
        through(upstream, decide=own, handler=handler, max_connections=2) as (first, origin),
        proxy_to(origin.port, decide=own, exports=handover) as second,
    ):
        workers = listener.Listener(first.server, introduced=b"http")
        workers.serve([listen_at(tmp_path / "first")])
        clients = [await second.connect() for _ in range(2)]
        crowd = [await first.connect() for _ in range(3 * EXTRA_CONNECTIONS)]
        await eventually(lambda: first.server.counters.rejected == len(crowd) - 2)
        for _ in range(2):
            for client in (*clients, crowd[0]):
                await client.send(GET)
                assert (await client.response())[1] == b"own"
        workers.close()


async def test_15_requests_wait_for_a_worker_that_does_not_keep_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Unix socket rejects connections while too many wait to be accepted."""

    def own(head: Head) -> Decision:
        return Own("/own", None, "", None)

    async def handler(request: web.BaseRequest, head: Head, decision: Decision) -> web.Response:
        return web.Response(text="own")

    monkeypatch.setattr(listening, "_BACKLOG", 1)
    handover = HandoverRelay({b"http": tmp_path / "first"}, timeout=LIMIT)
    async with (
        through(upstream, decide=own, handler=handler) as (first, origin),
        proxy_to(origin.port, decide=own, exports=handover) as second,
    ):
        full = listen_at(tmp_path / "first")
        clients = [await second.ask(GET) for _ in range(9)]
        await eventually(lambda: second.server.busy == len(clients))
        await asyncio.sleep(0.1)
        workers = listener.Listener(first.server, introduced=b"http")
        workers.serve([full])
        for client in clients:
            assert (await client.response())[1] == b"own"
        workers.close()


async def test_15_connections_far_above_the_limit_are_closed_without_a_response() -> None:
    async with through(upstream, max_connections=1) as (proxy, _):
        first = await proxy.ask(GET)
        await first.response()
        crowd = [await proxy.connect() for _ in range(3 * EXTRA_CONNECTIONS)]
        await eventually(lambda: proxy.server.counters.rejected == 3 * EXTRA_CONNECTIONS)
        assert proxy.server.open <= 1 + EXTRA_CONNECTIONS
        for peer in crowd:
            assert await peer.closed()
        await first.send(GET)
        assert (await first.response())[1] == b"ok"


async def test_15_a_failed_handshake_no_longer_counts_as_a_connection(
    localhost: trustme.LeafCert,
) -> None:
    async with through(upstream, server_tls=server_side(localhost)) as (proxy, _):
        peer = await silent_connection(proxy)
        await peer.send(GET)
        assert await peer.closed()
        await eventually(lambda: proxy.server.open == 0)
        await peer.close()


async def test_15_many_clients_that_come_together_are_accepted_together() -> None:
    """A turn of the loop serves every client that has sent requests, so that it may be long."""
    async with through(upstream) as (proxy, _), contextlib.AsyncExitStack() as crowd:
        for _ in range(200):  # the loop does not run meanwhile
            crowd.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
        turns = 0
        while proxy.server.open < 200:
            await asyncio.sleep(0)
            turns += 1
        assert turns < 100


@pytest.mark.parametrize(
    ("why", "text"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (MemoryError(), "no memory"),
    ],
)
async def test_15_accepting_pauses_without_descriptors_or_memory(
    why: Exception, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged, accept is retried after a while and not at once, and the listener
    continues.
    """
    accept, failures = listener.accept, 3
    calls = 0

    async def failing(sock: socket.socket, limit: int) -> list[socket.socket]:
        nonlocal calls
        calls += 1
        if calls <= failures:
            raise why
        return await accept(sock, limit)

    slept: list[float] = []
    sleep = asyncio.sleep

    async def sleeping(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    with caplog.at_level(logging.ERROR):
        monkeypatch.setattr(listener, "accept", failing)
        monkeypatch.setattr(listener, "pause", sleeping)
        async with through(upstream) as (proxy, _):
            assert (await (await proxy.ask(GET)).response())[1] == b"ok"
    assert slept == [listener.RETRY] * failures
    assert text in caplog.text


async def test_15_a_client_for_whom_there_is_no_memory_ends_no_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connection is closed, and the next one is served."""
    arrive, lacks = Server.arrive, [True]

    def lacking(server: Server, *args: Any, **kwargs: Any) -> bool:
        if lacks:
            lacks.pop()
            raise MemoryError
        return arrive(server, *args, **kwargs)

    monkeypatch.setattr(Server, "arrive", lacking)
    async with through(upstream) as (proxy, _):
        assert await (await proxy.connect()).closed()
        assert (await (await proxy.ask(GET)).response())[1] == b"ok"
        assert proxy.server.open == 1


@pytest.mark.parametrize(
    ("wanted", "others", "clients"),
    [(0, 0, 312), (10_000, 0, 312), (100, 0, 100), (0, 1, 156), (10_000, 3, 78), (50, 3, 50)],
)
def test_15_every_client_can_have_a_request_in_flight(
    wanted: int, others: int, clients: int
) -> None:
    """64 descriptors and 4 for each running export are reserved. For each client, also of the other
    workers, its connection fits and another to VB365 or the file that it downloads, and beside them
    idle connections to VB365, the proxy's own questions and the operator's connections.
    """
    shared = share(1024, max_running=4, max_connections=wanted, others=others)
    assert shared.reserve == 64 + 4 * 4
    assert shared.clients == clients
    requests = shared.clients * (1 + others)
    assert shared.upstream >= requests + shared.idle
    taken = 2 * requests + shared.idle + shared.admin + 2 * shared.questions
    assert taken + shared.reserve + EXTRA_CONNECTIONS <= 1024


async def test_15_a_closed_listener_frees_no_descriptor_that_the_loop_watches() -> None:
    """The number of a freed descriptor belongs to the next file that is opened. A loop that still
    watches it reports nothing of that file, or fails.
    """
    loop = asyncio.get_running_loop()
    async with through(upstream) as (proxy, _):
        other = listener.Listener(proxy.server)
        await other.open("127.0.0.1", 0)
        await asyncio.sleep(0)  # it accepts
        other.close()
        with contextlib.ExitStack() as closing:
            opened = [closing.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(8)]
            ready = set[socket.socket]()
            for sock in opened:
                sock.setblocking(False)
                loop.add_writer(sock, ready.add, sock)
            await eventually(lambda: len(ready) == len(opened))
            for sock in opened:
                loop.remove_writer(sock)


async def test_15_a_connection_that_is_accepted_just_before_the_end_counts_no_longer(
    localhost: trustme.LeafCert,
) -> None:
    """The task of its handshake has not begun when it is cancelled."""
    async with through(upstream) as (proxy, _):
        other = listener.Listener(proxy.server, tls=server_side(localhost))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname())
            theirs, _ = listening.accept()
        theirs.setblocking(False)
        with ours:
            other._admit(theirs)
            other.close()
            await eventually(lambda: not other._tasks)
        await eventually(lambda: proxy.server.open == 0)


@pytest.mark.parametrize("turns", range(6))
async def test_15_a_request_that_begins_as_the_listener_closes_gets_its_response(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that was cancelled between `connection_made` and its end closed the connection."""
    loop, begun = asyncio.get_running_loop(), list[Head]()

    def decide(head: Head) -> Decision:
        begun.append(head)
        return PassThrough(head.target)

    async with through(upstream, decide=decide) as (proxy, _):
        arrive = proxy.server.arrive

        def close(after: int) -> None:
            if after:
                loop.call_soon(close, after - 1)
            else:
                proxy.listener.close()

        def arriving(client: BaseConnection, *, handed_over: bool = False) -> bool:
            close(turns)
            return arrive(client, handed_over=handed_over)

        monkeypatch.setattr(proxy.server, "arrive", arriving)
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(GET)  # before the connection is accepted
            client.setblocking(False)
            async with asyncio.timeout(LIMIT):
                received = await loop.sock_recv(client, 1 << 16)
    assert len(begun) == 1
    assert received.endswith(b"ok")
