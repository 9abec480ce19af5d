"""NTLM and Negotiate authenticate a connection: it belongs to one client (CONTRACT §12)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, Own, PassThrough
from proxy.downstream.listener import Listener
from proxy.net.listening import listen_at
from proxy.relay.handover import HandoverRelay
from proxy.upstream.client import HttpUpstream
from proxy.upstream.pool import Pool
from tests.support.proxies import Proxy, proxy_to, through
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer, eventually

NOBODY = b"nobody"
AUTHORIZATION = rb"(?i)\r\nAuthorization: %b (.*?)\r\n"
LENGTH = re.compile(rb"(?i)\r\nContent-Length: (\d+)")


class Windows:
    """A server that authenticates connections in three steps, as IIS does, and responds with the
    authenticated user. With `at_once` the first token is enough, as with Kerberos.
    """

    def __init__(self, scheme: bytes = b"NTLM", *, at_once: bool = False) -> None:
        self.scheme = scheme
        self.at_once = at_once
        self.heard: list[tuple[bytes, bytes]] = []

    async def __call__(self, peer: Peer) -> None:
        who, step = NOBODY, 0
        while True:
            head = await peer.head()
            length = LENGTH.search(head)
            await peer.exactly(0 if length is None else int(length[1]))
            found = re.search(AUTHORIZATION % self.scheme, head)
            token = b"" if found is None else found[1]
            if token == b"hello":
                who, step = NOBODY, 1
            elif token and (step or self.at_once):
                who = token
            self.heard.append((head.partition(b" HTTP")[0], who))
            if b" /public " in head:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            elif who is NOBODY:
                challenge = self.scheme + (b" challenge" if step else b"")
                await peer.send(
                    b"HTTP/1.1 401 No\r\nWWW-Authenticate: %b\r\nContent-Length: 0\r\n\r\n"
                    % challenge
                )
            else:
                await peer.send(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(who), who)
                )


def asking(
    method: bytes = b"GET", token: bytes = b"", body: bytes = b"", scheme: bytes = b"NTLM"
) -> bytes:
    lines = [b"%b /x HTTP/1.1" % method, b"Host: h"]
    lines += [b"Authorization: %b %b" % (scheme, token)] if token else []
    lines += [b"Content-Length: %d" % len(body)] if method == b"POST" else []
    return b"\r\n".join([*lines, b"", b""]) + body


async def answered(peer: Peer, raw: bytes) -> tuple[int, bytes]:
    await peer.send(raw)
    head, body = await peer.response()
    return int(head[9:12]), body


async def logged_in(
    proxy: Proxy, who: bytes, method: bytes = b"GET", scheme: bytes = b"NTLM"
) -> Peer:
    client = await proxy.connect()
    assert (await answered(client, asking(method)))[0] == 401
    assert (await answered(client, asking(method, b"hello", scheme=scheme)))[0] == 401
    assert await answered(client, asking(method, who, scheme=scheme)) == (200, who)
    return client


@pytest.mark.parametrize("scheme", [b"NTLM", b"Negotiate"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_12_a_handshake_authenticates_its_client_only(method: bytes, scheme: bytes) -> None:
    async with through(Windows(scheme)) as (proxy, origin):
        alice = await logged_in(proxy, b"alice", method, scheme)
        # a POST without credentials gets a connection of its own
        assert origin.accepted == (1 if method == b"GET" else 2)
        for _ in range(5):
            stranger = await proxy.connect()
            assert (await answered(stranger, asking()))[0] == 401
            assert (await answered(stranger, asking(b"POST")))[0] == 401
        bob = await logged_in(proxy, b"bob", method, scheme)
        for client, who in ((alice, b"alice"), (bob, b"bob"), (alice, b"alice")):
            assert await answered(client, asking(method)) == (200, who)


async def test_12_the_last_step_may_have_the_body_and_the_next_request_starts_over() -> None:
    windows = Windows()
    async with through(windows) as (proxy, _):
        client = await proxy.connect()
        await answered(client, asking(b"POST"))
        await answered(client, asking(b"POST", b"hello"))
        assert await answered(client, asking(b"POST", b"alice", b"body")) == (200, b"alice")
        assert (await answered(client, asking()))[0] == 401
    assert [who for _, who in windows.heard] == [NOBODY, NOBODY, b"alice", NOBODY]


async def test_12_the_connection_ends_with_its_client() -> None:
    async with through(Windows()) as (proxy, _):
        clients = [await logged_in(proxy, b"alice"), await logged_in(proxy, b"bob")]
        assert proxy.pool.open == 2
        for client in clients:
            await client.close()
        await eventually(lambda: proxy.pool.open == 0)


async def test_12_a_handed_over_request_leaves_the_connection_to_its_client(
    tmp_path: Path,
) -> None:
    """Between workers, too: it serves the next request, and ends with the client."""

    def decide(head: Head) -> Decision:
        own = head.target == b"/own"
        return Own("/own", None, "", None) if own else PassThrough(head.target)

    async def handler(request: web.BaseRequest, head: Head, decision: Decision) -> web.Response:
        return web.Response(text="own")

    handover = HandoverRelay({b"http": tmp_path / "first"}, timeout=LIMIT)
    async with (
        through(Windows(), decide=decide, handler=handler) as (first, origin),
        proxy_to(origin.port, decide=decide, exports=handover) as second,
    ):
        workers = Listener(first.server, introduced=b"http")
        workers.serve([listen_at(tmp_path / "first")])
        client = await logged_in(second, b"alice")
        for _ in range(3):
            assert await answered(client, asking().replace(b"/x", b"/own")) == (200, b"own")
            assert await answered(client, asking()) == (200, b"alice")
        assert origin.accepted == 1
        await client.close()
        await eventually(lambda: second.pool.open == 0)
        workers.close()


async def test_12_an_unserved_request_on_a_private_connection_is_not_repeated() -> None:
    heads = 0

    async def script(peer: Peer) -> None:
        nonlocal heads
        while heads < 2:
            await peer.head()
            heads += 1
            if heads == 1:
                await peer.send(
                    b"HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"
                )

    async with through(script) as (proxy, origin):
        client = await proxy.connect()
        assert (await answered(client, asking(b"POST", b"hello")))[0] == 401
        assert (await answered(client, asking(b"POST", b"alice")))[0] == 502
        assert (heads, origin.accepted) == (2, 1)


@pytest.mark.parametrize("offer", [b"Bearer, Negotiate, NTLM", b"NTLM"])
async def test_12_a_connection_that_nobody_has_authenticated_gets_no_post(offer: bytes) -> None:
    """VB365, or a server in front of it, offers NTLM in every 401, and may close the connection for
    being idle when the POST arrives.
    """

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(
                b"HTTP/1.1 401 No\r\nWWW-Authenticate: %b\r\nContent-Length: 0\r\n\r\n" % offer
            )

    async with through(script, pool={"idle": 0.1}) as (proxy, origin):
        client = await proxy.connect()
        for accepted in (1, 2):
            assert (await answered(client, asking(b"POST")))[0] == 401
            assert origin.accepted == accepted
        assert (await answered(client, asking()))[0] == 401  # the idle one, or another after it
        stranger = await proxy.connect()
        accepted = origin.accepted
        assert (await answered(stranger, asking()))[0] == 401
        assert origin.accepted == accepted + 1
        await eventually(lambda: proxy.pool.open == 0)


async def test_12_pipelined_requests_of_one_client_stay_on_its_connection() -> None:
    async with through(Windows()) as (proxy, origin):
        client = await logged_in(proxy, b"alice")
        await client.send(asking() * 5)
        for _ in range(5):
            assert (await client.response())[1] == b"alice"
        assert origin.accepted == 1


async def test_12_the_proxys_own_calls_never_share_such_a_connection() -> None:
    async with Origin(Windows()).running() as origin:
        upstream = HttpUpstream(Pool("127.0.0.1", origin.port))
        for token in (b"NTLM hello", b"NTLM hello", b"Bearer x"):
            fields = [(b"Host", b"h"), (b"Authorization", token)]
            response = await upstream.send(b"GET", b"/", fields, timeout=LIMIT, stall=LIMIT)
            assert await response.read() == b""
        assert origin.accepted == 3
        await upstream.close()


async def test_12_a_used_connection_may_become_private() -> None:
    """Before the handshake it was shared; after it, it never is again."""

    async def script(peer: Peer) -> None:
        while True:
            head = await peer.head()
            more = b"Persistent-Auth: true\r\n" if b"/own" in head else b""
            await peer.send(b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % more)

    async with Origin(script).running() as origin, proxy_to(origin.port) as proxy:
        first = await proxy.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await first.response()
        await first.send(b"GET /own HTTP/1.1\r\nHost: h\r\n\r\n")
        await first.response()
        assert origin.accepted == 1
        second = await proxy.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await second.response()
        assert origin.accepted == 2
        await asyncio.wait_for(first.close(), LIMIT)
        await eventually(lambda: proxy.pool.open == 1)
