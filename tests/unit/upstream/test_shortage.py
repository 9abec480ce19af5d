"""A machine that cannot open another connection: its own failure, not VB365's (CONTRACT §12)."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from proxy.downstream import base
from proxy.ports import LocalShortage, UpstreamUnreachable
from proxy.relay.exchange import Exchange
from proxy.upstream.client import HttpUpstream
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool
from tests.support.proxies import through
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer, eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def answer_all(peer: Peer) -> None:
    while True:
        await peer.head()
        await peer.send(OK)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Every descriptor below the limit is taken."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.open(os.devnull, os.O_RDONLY)
    taken = [first]
    resource.setrlimit(resource.RLIMIT_NOFILE, (first + 1, limits[1]))
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


def short_of_memory(*_: object, **__: object) -> Any:
    raise MemoryError


async def test_12_without_a_descriptor_requests_get_503_until_one_is_free() -> None:
    async with through(answer_all) as (proxy, origin):
        client = await proxy.ask(GET)
        await client.response()
        with no_descriptors():
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
            head, body = await client.response()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in head
        assert b"capacity-exhausted" in body
        assert origin.accepted == 1
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        assert (await client.response())[1] == b"ok"


async def test_12_without_a_descriptor_the_proxys_own_calls_report_a_shortage() -> None:
    pool = Pool("127.0.0.1", 1)
    with pytest.raises(UpstreamUnreachable) as refused:
        await pool.connect()
    with no_descriptors(), pytest.raises(LocalShortage) as short:
        await pool.connect()
    assert not isinstance(refused.value, LocalShortage)
    assert not short.value.delivered
    assert pool.open == 0


@pytest.mark.parametrize(
    ("code", "shortage"),
    [
        (errno.EMFILE, True),
        (errno.ENFILE, True),
        (errno.ENOBUFS, True),
        (errno.ENOMEM, True),
        (errno.EADDRNOTAVAIL, True),
        (errno.ECONNREFUSED, False),
        (errno.EHOSTUNREACH, False),
        (socket.EAI_NONAME, False),
        (socket.EAI_MEMORY, True),
    ],
)
async def test_12_each_failure_to_connect_is_a_shortage_or_an_unreachable_upstream(
    code: int, shortage: bool
) -> None:
    async def lookup(*_: object, **__: object) -> Any:
        raise socket.gaierror(code, "x") if code < 0 else OSError(code, "x")

    pool = Pool("127.0.0.1", 1)
    pool.lookup = lookup
    with pytest.raises(UpstreamUnreachable) as why:
        await pool.connect()
    assert isinstance(why.value, LocalShortage) == shortage


async def test_12_a_failed_look_up_without_a_descriptor_is_a_shortage() -> None:
    async def lookup(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    pool = Pool("vb365.example", 1)
    pool.lookup = lookup
    with no_descriptors(), pytest.raises(LocalShortage):
        await pool.connect()


async def test_12_a_shortage_forgets_no_address() -> None:
    """Without a descriptor the resolver says that the name does not exist, and there may be one
    again when it says so.
    """
    found: list[Any] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    async def lookup(*_: object, **__: object) -> Any:
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found.pop()]

    async with Origin(answer_all).running() as origin:
        pool = Pool("vb365.example", origin.port)
        pool.lookup = lookup
        (await pool.connect()).close()
        with no_descriptors(), pytest.raises(LocalShortage):
            await pool.connect()
        (await pool.connect()).close()


@pytest.mark.parametrize(
    "codes", [(errno.EMFILE, errno.ECONNREFUSED), (errno.ECONNREFUSED, errno.ENFILE)]
)
async def test_12_a_shortage_wins_over_the_refusal_of_another_address(
    monkeypatch: pytest.MonkeyPatch, codes: tuple[int, int]
) -> None:
    """A client that leaves between the two frees a descriptor."""
    failures = list(codes)

    async def lookup(*_: object, **__: object) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 1)) for host in "ab"]

    async def open_to(*_: object) -> Any:
        raise OSError(failures.pop(0), "x")

    monkeypatch.setattr(Pool, "_open_to", open_to)
    pool = Pool("vb365.example", 1)
    pool.lookup = lookup
    with pytest.raises(LocalShortage):
        await pool.connect()


async def test_12_an_address_without_a_route_does_not_hide_the_refusal_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`localhost` on a machine without IPv6: the first address refuses, the second one has no local
    address.
    """

    async def lookup(*_: object, **__: object) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 1))
            for host in ("127.0.0.1", "127.0.0.2")
        ]

    async def open_to(_: Pool, address: tuple[int, int, str]) -> Any:
        raise OSError(errno.ECONNREFUSED if address[2] == "127.0.0.1" else errno.EADDRNOTAVAIL, "x")

    monkeypatch.setattr(Pool, "_open_to", open_to)
    pool = Pool("localhost", 1)
    pool.lookup = lookup
    with pytest.raises(UpstreamUnreachable) as why:
        await pool.connect()
    assert not isinstance(why.value, LocalShortage)


async def test_12_a_connection_for_whose_request_there_is_no_memory_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody else would close it, if VB365 waits for the request."""

    async def wait(peer: Peer) -> None:
        await peer.reader.read()

    async with Origin(wait).running() as origin:
        pool = Pool("127.0.0.1", origin.port)
        upstream = HttpUpstream(pool)
        with monkeypatch.context() as patched:
            patched.setattr(Connection, "ask", short_of_memory)
            with pytest.raises(MemoryError):
                await upstream.send(b"POST", b"/", (), b"{}", timeout=LIMIT, stall=LIMIT)
        assert pool.open == 0
        await upstream.close()


async def test_12_without_memory_to_connect_a_request_gets_503() -> None:
    async with through(answer_all) as (proxy, _):
        client = await proxy.ask(GET)
        await client.response()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Pool, "_dial", short_of_memory)
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
            head, _ = await client.response()
        assert head.startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("then", [b"", b"ok"], ids=["at once", "body"])
async def test_12_a_request_for_which_there_is_no_memory_is_broken_off(then: bytes) -> None:
    """Its client would wait for ever."""
    async with through(answer_all) as (proxy, origin):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Connection, "ask", short_of_memory)
            length = b"Content-Length: %d\r\n\r\n" % len(then)
            client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\n" + length + then)
            await broken_off(client)
        assert origin.accepted == 1


async def test_12_a_used_connection_for_whose_request_there_is_no_memory_is_closed() -> None:
    async with through(answer_all) as (proxy, _):
        client = await proxy.ask(GET)
        await client.response()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Connection, "ask", short_of_memory)
            await client.send(GET)
            await broken_off(client)
        await eventually(lambda: proxy.pool.open == 0)


@pytest.mark.parametrize("connected", [False, True])
async def test_12_a_client_for_whose_problem_there_is_no_memory_is_broken_off(
    connected: bool,
) -> None:
    """It would wait for ever: no connection was made, or VB365 closed it without a response."""

    async def close(peer: Peer) -> None:
        await peer.head()

    async with through(close) as (proxy, _):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(base, "problem_bytes", short_of_memory)
            if not connected:
                patched.setattr(Pool, "_dial", short_of_memory)
            await broken_off(await proxy.ask(GET))
        assert (proxy.pool.open, proxy.server.busy) == (0, 0)


async def test_12_a_client_for_whose_repeated_request_there_is_no_memory_is_broken_off() -> None:
    """VB365 has closed the used connection without a response."""

    async def once(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await peer.head()

    async with through(once) as (proxy, _):
        client = await proxy.ask(GET)
        await client.response()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Exchange, "dial", short_of_memory)
            await client.send(GET)
            await broken_off(client)
        assert (proxy.pool.open, proxy.server.busy) == (0, 0)


async def broken_off(client: Peer) -> None:
    async with asyncio.timeout(LIMIT):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.response()
