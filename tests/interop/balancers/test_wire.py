"""What balancers often change: targets, large heads and bodies, upgrades, untrusted peers (CONTRACT
§12, §13).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import SimulatorSettings
from tests.interop.balancers.balancer import THROUGH, Balancer, Files, balancing
from tests.interop.balancers.conftest import port_of, proxying, standing
from tests.support.upstreams import Origin, Script
from tests.support.wire import LIMIT, Peer
from tests.unit.upstream.test_private_connections import Windows, answered, asking


@asynccontextmanager
async def before(
    script: Script, name: str, files: Files, place: Path, trusting: ssl.SSLContext
) -> AsyncIterator[tuple[Peer, Balancer]]:
    """A client's connection to the balancer in front of the proxy in front of a scripted
    upstream.
    """
    async with (
        Origin(script).running() as origin,
        proxying(f"http://127.0.0.1:{origin.port}", place) as proxy,
        balancing(name, place, files, proxy=port_of(proxy.url)) as balancer,
    ):
        client = await to(balancer, trusting)
        try:
            yield client, balancer
        finally:
            client.abort()


async def to(balancer: Balancer, trusting: ssl.SSLContext) -> Peer:
    """A client's connection to the balancer."""
    opened = asyncio.open_connection(
        "127.0.0.1",
        balancer.ports[THROUGH],
        ssl=trusting,
        server_hostname="localhost",
        limit=1 << 21,
    )
    return Peer(*await asyncio.wait_for(opened, LIMIT))


TARGETS = ("//v6/Organizations", "/v8/x/a%2Fb%3d+c;d", "/v8/x?y=%7e&&z", "/v8/" + "x" * 7000)


async def test_targets_reach_vb365_as_they_were_sent(
    name: str, files: Files, tmp_path: Path, trusting: ssl.SSLContext
) -> None:
    """CONTRACT §12: the shipped configurations let the balancer normalise nothing."""
    seen: list[str] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append((await peer.head()).split()[1].decode())
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with before(script, name, files, tmp_path, trusting) as (client, _):
        for target in TARGETS:
            await client.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert tuple(seen) == TARGETS


async def test_a_token_of_64_kib_and_large_response_fields_pass(
    name: str, files: Files, tmp_path: Path, trusting: ssl.SSLContext
) -> None:
    """CONTRACT §12: nginx's default ends at 8 KiB with 400, HAProxy's at 16 KiB and at 101
    fields.
    """
    token = b"t" * (64 * 1024 - 100)
    many = b"".join(b"X-%d: y\r\n" % n for n in range(500))

    async def script(peer: Peer) -> None:
        head = await peer.until(b"\r\n\r\n")
        assert b"Bearer " + token in head
        assert head.lower().count(b"\r\nx-") >= 500
        await peer.send(b"HTTP/1.1 200 OK\r\nX-Big: " + token + b"\r\nContent-Length: 0\r\n\r\n")

    async with before(script, name, files, tmp_path, trusting) as (client, _):
        await client.send(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            + token
            + b"\r\n"
            + many
            + b"\r\n"
        )
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200")
        assert token in head


async def test_a_websocket_is_tunnelled(
    name: str, files: Files, tmp_path: Path, trusting: ssl.SSLContext
) -> None:
    """CONTRACT §12: after the upstream's own 101, bytes flow both ways."""

    async def script(peer: Peer) -> None:
        head = (await peer.head()).lower()
        assert b"upgrade: websocket" in head
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            # RFC 6455 §1.3; HAProxy looks at it
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        for _ in range(3):
            await peer.send(b"<" + await peer.exactly(4) + b">")

    async with before(script, name, files, tmp_path, trusting) as (client, _):
        await client.send(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert (await client.head()).startswith(b"HTTP/1.1 101")
        for word in (b"ping", b"pong", b"\x00\xff\r\n"):
            await client.send(word)
            assert await client.exactly(6) == b"<" + word + b">"


@pytest.mark.parametrize("scheme", [b"NTLM", b"Negotiate", b"Nego2"])
async def test_nobody_is_taken_for_the_client_that_has_authenticated_a_connection(
    name: str, scheme: bytes, files: Files, tmp_path: Path, trusting: ssl.SSLContext
) -> None:
    """CONTRACT §12: a balancer uses its connections to the proxy for all clients."""
    async with before(Windows(scheme), name, files, tmp_path, trusting) as (alice, balancer):
        for token in (b"", b"hello", b"alice"):
            await answered(alice, asking(token=token, scheme=scheme))
        for _ in range(4):
            stranger = await to(balancer, trusting)
            for method in (b"GET", b"POST"):
                assert (await answered(stranger, asking(method)))[0] == 401
            stranger.abort()


@pytest.mark.parametrize("scheme", [b"NTLM", b"Negotiate", b"Bearer x, Negotiate"])
async def test_nor_for_one_that_has_done_so_with_its_first_request(
    name: str, scheme: bytes, files: Files, tmp_path: Path, trusting: ssl.SSLContext
) -> None:
    """CONTRACT §12: with Kerberos no 401 shows the balancer that a connection is a client's own."""
    windows = Windows(scheme, at_once=True)
    async with before(windows, name, files, tmp_path, trusting) as (alice, balancer):
        assert await answered(alice, asking(token=b"alice", scheme=scheme)) == (200, b"alice")
        alice.abort()
        for _ in range(8):
            stranger = await to(balancer, trusting)
            await answered(stranger, b"GET /public HTTP/1.1\r\nHost: h\r\n\r\n")
            for method in (b"GET", b"POST"):
                assert (await answered(stranger, asking(method)))[0] == 401
            stranger.abort()


async def test_a_large_upload_passes_the_balancer(
    name: str, files: Files, tmp_path: Path, trusting: ssl.SSLContext
) -> None:
    """CONTRACT §12: nginx's default ends at 1 MiB with 413."""
    size = 8 << 20

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(size)
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with before(script, name, files, tmp_path, trusting) as (client, _):
        await client.send(
            b"PUT /big HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
            + bytes(size)
        )
        assert (await client.head()).startswith(b"HTTP/1.1 204")


FORWARDED = (
    (
        {"Forwarded": 'for=192.0.2.7;proto=https;host="vb365.example.com"'},
        "https://vb365.example.com",
    ),
    (
        {"Forwarded": "host=a.example:8443, host=b.example", "X-Forwarded-Host": "c.example"},
        "http://a.example:8443",
    ),
    (
        {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example, b.example"},
        "https://a.example",
    ),
    (
        {"X-Forwarded-Host": "a.example", "X-Forwarded-Port": "8080", "X-Forwarded-Prefix": "/p"},
        "http://a.example:8080/p",
    ),
    ({"X-Forwarded-Host": "not a host", "X-Forwarded-Proto": "gopher"}, None),
)


@pytest.mark.parametrize(("fields", "base"), FORWARDED)
async def test_forwarding_fields_of_trusted_peers_only_are_used(
    fields: dict[str, str], base: str | None, tmp_path: Path
) -> None:
    """CONTRACT §13: 127.0.0.1 is trusted, 127.0.0.2 is not. Without balancers: the rule is the
    proxy's own.
    """
    async with (
        standing(SimulatorSettings(size=1000)) as vb365,
        proxying(vb365.url, tmp_path) as proxy,
    ):
        path = vb365.export_paths(vb365.open_session())[0]
        for peer, expected in (("127.0.0.1", base or proxy.url), ("127.0.0.2", proxy.url)):
            connector = aiohttp.TCPConnector(local_addr=(peer, 0))
            async with aiohttp.ClientSession(connector=connector) as http:
                headers = vb365.login() | {"Prefer": "respond-async"} | fields
                async with http.post(proxy.url + path, data=b"{}", headers=headers) as response:
                    assert response.status == 202
                    assert response.headers["Location"].startswith(f"{expected}/v8/_async/exports/")
