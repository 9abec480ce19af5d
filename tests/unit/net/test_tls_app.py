"""The whole proxy with TLS on either side (CONTRACT §15 listen.tls_*, upstream.ca_file,
fingerprint, verify).
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiohttp import ClientSession

from proxy import app
from proxy.config import load
from proxy.simulator import Simulator

HEALTH = b"GET /v8/Health HTTP/1.1\r\nHost: h\r\n\r\n"


class Place:
    """Two authorities, a simulator that speaks TLS, and proxies in front of it."""

    def __init__(self, path: Path, simulator: Simulator, upstreams: trustme.CA, der: bytes) -> None:
        self.path = path
        self.simulator = simulator
        self.ca_file = path / "upstream-ca.pem"
        upstreams.cert_pem.write_to_path(self.ca_file)
        self.fingerprint = hashlib.sha256(der).hexdigest()
        self.proxies: list[app.Running] = []

    async def proxy(self, **settings: str) -> app.Running:
        given = {
            "STORAGE__DIR": str(self.path / f"data{len(self.proxies)}"),
            "STORAGE__MIN_FREE": "1MiB",
        } | settings
        environ = {f"VB365_PROXY_{name}": value for name, value in given.items()}
        environ |= {
            "VB365_PROXY_LISTEN__ADDRESS": "127.0.0.1:0",
            "VB365_PROXY_ADMIN__ADDRESS": "127.0.0.1:0",
        }
        environ |= {"VB365_PROXY_UPSTREAM__URL": f"https://localhost:{self.simulator.port}"}
        running = await app.start(load(None, {}, environ))
        self.proxies.append(running)
        return running

    def certificate(self, name: str) -> ssl.SSLContext:
        """Write a new certificate for the proxy over the old one; return a client's context that
        trusts it alone.
        """
        authority = trustme.CA()
        made = authority.issue_cert("localhost", organization_name=name)
        made.private_key_pem.write_to_path(self.path / "key.pem")
        (self.path / "cert.pem").write_bytes(
            b"".join(blob.bytes() for blob in made.cert_chain_pems)
        )
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    upstreams = trustme.CA()
    certificate = upstreams.issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    simulator = Simulator()
    await simulator.start(ssl=context)
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    place = Place(tmp_path, simulator, upstreams, der)
    yield place
    for proxy in place.proxies:
        await proxy.stop()
    await simulator.stop()


async def response(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = next(
        int(line[15:])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


async def health(proxy: app.Running) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    writer.write(HEALTH)
    try:
        return await response(reader)
    finally:
        writer.close()


async def test_an_upstream_is_trusted_by_authority_by_fingerprint_or_unverified(
    place: Place,
) -> None:
    """§15: ca_file, fingerprint, verify=false with a warning."""
    trusts = (
        {"UPSTREAM__CA_FILE": str(place.ca_file)},
        {"UPSTREAM__FINGERPRINT": place.fingerprint},
        {"UPSTREAM__VERIFY": "false"},
    )
    for trust in trusts:
        assert (await health(await place.proxy(**trust))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("trust", "hint"),
    [({}, "upstream.ca_file"), ({"UPSTREAM__FINGERPRINT": "ab" * 32}, "is not the pinned one")],
)
async def test_an_untrusted_upstream_is_502_with_a_hint(
    place: Place, trust: dict[str, str], hint: str
) -> None:
    """Nothing is sent to an unverified server."""
    proxy = await place.proxy(**trust)
    assert (await health(proxy)).startswith(b"HTTP/1.1 502")
    async with ClientSession() as client, client.get(f"{proxy.admin_url}/readyz") as answered:
        assert answered.status == 503
        assert hint in await answered.text()
    assert not place.simulator.requests


async def test_a_renewed_certificate_is_shown_to_new_connections_and_drops_none(
    place: Place,
) -> None:
    """§15: SIGHUP reloads certificates; TLS 1.2+, ALPN http/1.1."""
    old = place.certificate("old")
    proxy = await place.proxy(
        LISTEN__TLS_CERTIFICATE=str(place.path / "cert.pem"),
        LISTEN__TLS_KEY=str(place.path / "key.pem"),
        UPSTREAM__CA_FILE=str(place.ca_file),
    )
    assert proxy.url.startswith("https://")
    port = int(proxy.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=old, server_hostname="localhost"
    )
    tls = writer.get_extra_info("ssl_object")
    assert (tls.selected_alpn_protocol(), tls.version() in ("TLSv1.2", "TLSv1.3")) == (
        "http/1.1",
        True,
    )
    writer.write(HEALTH)
    await response(reader)
    new = place.certificate("new")
    proxy.reload_certificate()
    writer.write(HEALTH)
    assert (await response(reader)).startswith(b"HTTP/1.1 200")
    writer.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", port, ssl=old, server_hostname="localhost")
    second, closing = await asyncio.open_connection(
        "127.0.0.1", port, ssl=new, server_hostname="localhost"
    )
    closing.write(HEALTH)
    assert (await response(second)).startswith(b"HTTP/1.1 200")
    closing.close()
    (place.path / "cert.pem").write_text("not a certificate")
    proxy.reload_certificate()
    third, closing = await asyncio.open_connection(
        "127.0.0.1", port, ssl=new, server_hostname="localhost"
    )
    closing.write(HEALTH)
    assert (await response(third)).startswith(b"HTTP/1.1 200")
    closing.close()
