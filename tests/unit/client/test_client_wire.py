"""How the client connects: the forward proxy of the environment, pinned certificates, and limits
(CONTRACT §15).
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from yarl import URL

from proxy.client import profiles
from proxy.client.errors import CommandError
from proxy.client.forward import forward_proxy
from tests.support.tls_peers import der, server_side
from tests.unit.client.conftest import commanded, serving
from tests.unit.client.fake_proxy import ID, FakeProxy

SERVER = URL("https://vb365.example.com:4443")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({"HTTPS_PROXY": "http://p:3128"}, SERVER, "http://p:3128"),
        ({"https_proxy": "p:3128"}, SERVER, "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128"}, SERVER, None),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "example.com"}, SERVER, None),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "*"}, SERVER, None),
        ({"HTTPS_PROXY": "http://p:3128"}, URL("https://localhost:4443"), None),
        ({"HTTPS_PROXY": "http://p:3128"}, URL("https://[::1]:4443"), None),
        ({}, SERVER, None),
    ],
)
def test_the_proxy_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: URL, proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = forward_proxy(url)
    assert (found.url, found.fields) == (None if proxy is None else URL(proxy), {})


@pytest.mark.parametrize("value", ["socks5://u:s3cret@p:1080", "http://", "http://u:s3cret@[x"])
def test_another_kind_of_proxy_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(CommandError, match="HTTPS_PROXY must be the URL of an HTTP proxy") as error:
        forward_proxy(SERVER)
    assert (error.value.code, "s3cret" in str(error.value)) == (2, False)


def test_the_password_of_a_proxy_is_no_part_of_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://jane:s3cret@p:3128")
    found = forward_proxy(SERVER)
    assert found.url == URL("http://p:3128")
    assert found.fields == {"Proxy-Authorization": aiohttp.encode_basic_auth("jane", "s3cret")}
    assert found.fields["Proxy-Authorization"] not in repr(found)


def test_requests_go_through_the_proxy(run: Any, fake: FakeProxy) -> None:
    """With its own credentials; the server's name is not resolved here."""
    proxy = fake.url.replace("://", "://jane:s3cret@")
    result = run("jobs", "show", ID, "-v", VB365_URL="http://vb365.invalid", HTTP_PROXY=proxy)
    (_, target, fields, _), *_ = fake.seen
    assert target.startswith("http://vb365.invalid/")
    assert fields["Proxy-Authorization"] == aiohttp.encode_basic_auth("jane", "s3cret")
    assert "Proxy-Authorization: ***" in result.stderr
    assert "s3cret" not in result.output


@contextmanager
def tunnelling(port: int) -> Iterator[tuple[int, list[bytes]]]:
    """A forward proxy for one connection, to a port of this computer whatever was asked for. Yields
    its port and the head of the CONNECT.
    """
    heads: list[bytes] = []

    def pipe(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            heads.append(client.recv(1 << 16))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pipe, args=(server, client))
            back.start()
            pipe(client, server)
            back.join(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], heads
        thread.join(10)


def test_https_goes_through_the_proxy_in_a_tunnel(
    run: Any, pinned: tuple[ssl.SSLContext, str]
) -> None:
    """The certificate is verified inside; the proxy's credentials stay outside."""
    context, fingerprint = pinned
    with serving(context) as fake, tunnelling(URL(fake.url).port or 0) as (port, heads):
        result = run(
            *("jobs", "show", ID, "--fingerprint", fingerprint),
            VB365_URL="https://vb365.invalid:4443",
            HTTPS_PROXY=f"http://jane:s3cret@127.0.0.1:{port}",
        )
        assert result.exit_code == 0, result.stderr
        (_, _, fields, _), *_ = fake.seen
    assert heads[0].startswith(b"CONNECT vb365.invalid:4443 HTTP/1.1\r\n")
    assert aiohttp.encode_basic_auth("jane", "s3cret").encode() in heads[0]
    assert b"Bearer" not in heads[0]
    assert "Proxy-Authorization" not in fields


def test_a_proxy_that_refuses_is_named(run: Any, fake: FakeProxy, slept: list[float]) -> None:
    environment = {"VB365_URL": "http://vb365.invalid", "HTTP_PROXY": "http://127.0.0.1:1"}
    result = run("jobs", "show", ID, **environment)
    assert (result.exit_code, "the proxy in HTTP_PROXY cannot be used" in result.stderr) == (
        2,
        True,
    )


@pytest.fixture
def pinned() -> tuple[ssl.SSLContext, str]:
    """A server's certificate of an unknown authority, and its fingerprint."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    digest = sha256(der(certificate.cert_chain_pems[0].bytes())).digest()
    return server_side(certificate), digest.hex(":").upper()


def test_exactly_the_pinned_certificate_is_trusted(
    run: Any, pinned: tuple[ssl.SSLContext, str]
) -> None:
    """Nothing is sent to another one, and the message names both."""
    context, fingerprint = pinned
    other = "00" * 32
    with serving(context) as fake:
        line = ("jobs", "show", ID, "--url", fake.url, "--fingerprint")
        assert run(*line, fingerprint).exit_code == 0
        fake.seen.clear()
        result = run(*line, other)
        assert (result.exit_code, fake.seen) == (2, [])
        assert f"the SHA-256 fingerprint {fingerprint}, not 00:00:" in result.stderr
        result = run(*line, "abc")
        assert (result.exit_code, "64 hexadecimal digits" in result.stderr) == (2, True)


def test_a_login_keeps_the_pinned_certificate(pinned: tuple[ssl.SSLContext, str]) -> None:
    """Other commands trust it too, and no other."""
    context, fingerprint = pinned
    with serving(context) as fake:
        login = ("login", fake.url, "--username", "jane", "--fingerprint", fingerprint)
        result = commanded(*login, VB365_PASSWORD="pa&ss")
        assert result.exit_code == 0, result.stderr
        assert commanded("jobs", "show", ID).exit_code == 0
        saved = profiles.load("default")
        assert (saved.fingerprint, saved.insecure) == (fingerprint, False)


@pytest.mark.parametrize("url", ["http://u:p@h", "http://h/?a=b", "http://h/#x", "ftp://h"])
def test_an_address_has_neither_credentials_nor_a_query(run: Any, url: str) -> None:
    result = run("jobs", "list", "--url", url)
    assert (result.exit_code, "--url must" in result.stderr) == (2, True)


def test_an_endless_document_ends_the_command(
    run: Any, fake: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile server cannot fill the memory."""
    monkeypatch.setattr("proxy.client.wire._MAX_BODY", 1 << 20)

    async def job(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"{" + b" " * (2 << 20))

    fake.job = job  # type: ignore[method-assign]
    result = run("jobs", "show", ID)
    assert (result.exit_code, "is longer than 1 MiB" in result.stderr) == (1, True)
