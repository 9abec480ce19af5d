"""Over TLS, a response whose end is that of its connection is whole only after a close_notify (§12;
RFC 9112 §9.8).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from proxy.downstream import connection as clients
from proxy.downstream import lingering
from proxy.ports import UpstreamBroken
from proxy.upstream.client import HttpUpstream
from proxy.upstream.pool import Pool
from tests.support.proxies import proxy_to, through
from tests.support.tls_peers import server_side
from tests.support.wire import LIMIT, Peer, eventually
from tests.unit.relay.test_early_responses import accepted
from tests.unit.relay.test_relay_streams import contexts

BODY = bytes(300_000)
PIECE = 48 << 10


def respond(peer: socket.socket, *, proper: bool) -> None:
    """Send a response that ends with the connection, with a close_notify iff `proper`."""
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n" + BODY)
    if proper:
        with peer, contextlib.suppress(OSError):  # the proxy's own close_notify may not come
            peer.unwrap()  # type: ignore[attr-defined]  # it is an SSLSocket
    else:
        os.close(peer.detach())


@pytest.mark.parametrize("proper", [False, True])
async def test_12_a_relayed_response_without_close_notify_is_broken_off(
    proper: bool, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    server, trusting = contexts(localhost, authority)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        async with proxy_to(listener.getsockname()[1], pool={"tls": trusting}) as proxy:
            client = await Peer.to(f"http://127.0.0.1:{proxy.port}")
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            peer = await asyncio.to_thread(accepted, listener, server)
            answering = asyncio.create_task(asyncio.to_thread(respond, peer, proper=proper))
            if proper:
                assert (await client.rest()).endswith(b"\r\n\r\n" + BODY)
            else:
                with pytest.raises(ConnectionResetError):
                    await client.rest()
            await answering
            client.abort()


@pytest.mark.parametrize("proper", [False, True])
async def test_10_a_file_without_close_notify_is_not_whole(
    proper: bool, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    server, trusting = contexts(localhost, authority)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        upstream = HttpUpstream(Pool("127.0.0.1", listener.getsockname()[1], tls=trusting))
        sending = asyncio.create_task(upstream.send(b"POST", b"/", [], timeout=LIMIT, stall=LIMIT))
        peer = await asyncio.to_thread(accepted, listener, server)
        answering = asyncio.create_task(asyncio.to_thread(respond, peer, proper=proper))
        response = await sending
        received = 0
        broken = False
        try:
            while piece := await response.read():
                received += len(piece)
        except UpstreamBroken:
            broken = True
        assert (received, broken) == (len(BODY), not proper)
        await answering
        await upstream.close()


def received(port: int, request: bytes, trusting: ssl.SSLContext) -> bytes:
    """What the proxy sends until its close_notify. Raises `ssl.SSLError` without one."""
    trusting.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    with socket.create_connection(("127.0.0.1", port), LIMIT) as plain:
        name, ragged = "localhost", False
        with trusting.wrap_socket(
            plain, server_hostname=name, suppress_ragged_eofs=ragged
        ) as client:
            client.sendall(request)
            data = b""
            while piece := client.recv(1 << 16):
                data += piece
            return data


@pytest.mark.parametrize(
    "more", [b"\r\n", b"\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", b"Content-Length: 9\r\n\r\nabc"]
)
async def test_12_a_client_gets_a_close_notify_after_a_response_that_ends_with_it(
    more: bytes, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    """Also while it is still sending: a body that VB365 did not wait for, or another request."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def upstream(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)

    async with through(upstream, server_tls=server_side(localhost)) as (proxy, _):
        request = b"GET / HTTP/1.1\r\nHost: h\r\n" + more
        whole = await asyncio.to_thread(received, proxy.port, request, trusting)
        assert whole.endswith(b"\r\n\r\n" + BODY)


async def test_15_a_client_without_a_close_notify_is_not_waited_for(
    localhost: trustme.LeafCert, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loops wait 30 seconds for it, and meanwhile the connection counts."""
    monkeypatch.setattr(lingering, "QUIET", 0.1)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def upstream(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)

    def unclosed(port: int) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), LIMIT)
        client = trusting.wrap_socket(plain, server_hostname="localhost")
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\n" + BODY):
            data += client.recv(1 << 16)
        return client

    async with through(upstream, server_tls=server_side(localhost)) as (proxy, _):
        with await asyncio.to_thread(unclosed, proxy.port):
            async with asyncio.timeout(15):
                await eventually(lambda: not proxy.server.open)


def slow_client(port: int, tls: ssl.SSLContext | None) -> socket.socket:
    """Connect a client for which the system takes little that it has not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(LIMIT)
    client.connect(("127.0.0.1", port))
    return tls.wrap_socket(client, server_hostname="localhost") if tls else client


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_12_a_client_that_sends_while_it_reads_its_last_response_gets_all_of_it(
    tls: bool, stops: bool, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    """A socket that is closed would reset the connection, and what is not sent yet be lost."""
    server, trusting = contexts(localhost, authority)
    framing = b"Content-Length: %d\r\n" % len(BODY) if stops else b""

    async def upstream(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + BODY)

    def begin(port: int) -> socket.socket:
        client = slow_client(port, trusting if tls else None)
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        return client

    def rest(client: socket.socket) -> bytes:
        data = b""
        while piece := client.recv(1 << 16):
            data += piece
        return data

    async with through(upstream, server_tls=server if tls else None) as (proxy, _):
        with await asyncio.to_thread(begin, proxy.port) as client:
            await eventually(lambda: sum(proxy.server.counters.relay.codes.values()) == 1)
            stop = asyncio.create_task(proxy.server.drain(LIMIT)) if stops else None
            await asyncio.sleep(0.05)
            await asyncio.to_thread(client.sendall, b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await asyncio.to_thread(rest, client)).endswith(b"\r\n\r\n" + BODY)
        if stop is not None:
            await stop


@pytest.mark.parametrize("tls", [False, True])
async def test_12_a_client_that_sends_long_after_its_last_response_gets_all_of_it(
    tls: bool,
    localhost: trustme.LeafCert,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of some of the responses the system takes all but a part, without which they would look
    whole: they end with the connection.
    """
    monkeypatch.setattr(clients, "LINGER_EARLY", 0.2)
    server, trusting = contexts(localhost, authority)
    count = 80

    async def upstream(peer: Peer) -> None:
        size = PIECE * int((await peer.head()).split()[1][1:])
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % size
        await peer.send(head + bytes(size) + b"\r\n0\r\n\r\n")

    def whole(port: int, number: int) -> bool:
        with slow_client(port, trusting if tls else None) as client:
            client.sendall(b"GET /%d HTTP/1.0\r\n\r\n" % number)
            for _ in range(8):
                time.sleep(0.1)
                client.sendall(b"x")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # read faster
            data = b""
            while piece := client.recv(1 << 16):
                data += piece
        return data.endswith(b"\r\n\r\n" + bytes(number * PIECE))

    with ThreadPoolExecutor(count) as threads:
        async with through(upstream, server_tls=server if tls else None) as (proxy, _):
            loop = asyncio.get_running_loop()
            asked = [
                loop.run_in_executor(threads, whole, proxy.port, number)
                for number in range(1, count + 1)
            ]
            assert all(await asyncio.gather(*asked))


@pytest.mark.parametrize("tls", [False, True])
async def test_12_a_client_that_ends_its_side_and_reads_nothing_is_not_waited_for(
    tls: bool, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    """Of some of the responses the system takes all but so little that writing is not paused."""
    server, trusting = contexts(localhost, authority)
    count = 80

    async def upstream(peer: Peer) -> None:
        size = PIECE * int((await peer.head()).split()[1][1:])
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    # 80 handshakes and the pause must take less than five times `head_timeout`, also under load
    async with through(upstream, server_tls=server if tls else None, head_timeout=1) as (
        proxy,
        _,
    ):

        def begin(number: int) -> socket.socket:
            client = slow_client(proxy.port, trusting if tls else None)
            client.sendall(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
            return client

        with contextlib.ExitStack() as stack:
            asked = [asyncio.to_thread(begin, number) for number in range(1, count + 1)]
            clients = [stack.enter_context(each) for each in await asyncio.gather(*asked)]
            await asyncio.sleep(0.5)
            for client in clients:
                client.shutdown(socket.SHUT_WR)
            await eventually(lambda: not proxy.server.open)
