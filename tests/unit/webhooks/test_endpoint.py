"""One POST to a receiver (CONTRACT §17)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from proxy.clock import SteadyClock
from proxy.config.webhooks import Webhooks
from proxy.parts.webhooks import endpoints
from proxy.webhooks.endpoint import Endpoint
from proxy.webhooks.signature import signing_key
from tests.support.receiver import SECRET, receiving

KEYS = [signing_key(SECRET)]


@asynccontextmanager
async def peer(response: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Answer each request with these bytes, or never."""
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        if response is None:
            await done.wait()
        else:
            writer.write(response)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        done.set()
        server.close()
        await server.wait_closed()


async def outcome(url: str, timeout: float = 5.0) -> str:
    endpoint = Endpoint(url, KEYS, time.time, timeout=timeout)
    try:
        return str(await endpoint.post("msg_1", b"{}"))
    finally:
        await endpoint.close()


async def test_17_a_certificate_that_is_not_trusted_gets_nothing() -> None:
    """TLS is verified: the signed message goes to nobody else."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with peer(b"HTTP/1.1 204 No Content\r\n\r\n", context) as port:
        assert "certificate is not trusted" in await outcome(f"https://127.0.0.1:{port}/")


async def test_17_the_system_s_certificates_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a process that loaded aiohttp without them, as `serve` does."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    await asyncio.to_thread(authority.cert_pem.write_to_path, tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with peer(b"HTTP/1.1 204 No Content\r\n\r\n", context) as port:
        assert await outcome(f"https://127.0.0.1:{port}/") == "204 No Content"


async def test_17_an_endpoint_that_does_not_respond_in_time_has_failed() -> None:
    async with peer(None) as port:
        assert await outcome(f"http://127.0.0.1:{port}/", 0.2) == "no response within 0.2 s"


async def test_17_no_error_has_the_url() -> None:
    """What is no HTTP, too."""
    for response in (b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n"):
        async with peer(response) as port:
            found = await outcome(f"http://127.0.0.1:{port}/c4nary?sig=c4nary")
            assert found
            assert "c4nary" not in found
            assert not found.startswith("2")


@pytest.mark.parametrize(
    "piece", [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_17_an_endless_series_of_interim_responses_is_cut_off(piece: bytes) -> None:
    """Without a limit, the try would take its whole time, and the loop from all others."""
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(piece * 1000)
                sent += 1000 * len(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await outcome(f"http://127.0.0.1:{port}/", timeout=20.0)
    assert found == "it closed the connection"
    assert sent < 32 << 20


async def test_17_interim_responses_are_skipped() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 10
    async with peer(interim + b"HTTP/1.1 204 No Content\r\n\r\n") as port:
        assert await outcome(f"http://127.0.0.1:{port}/") == "204 No Content"


async def test_17_a_long_body_is_not_read_and_the_message_is_delivered() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    async with peer(response) as port:
        assert await outcome(f"http://127.0.0.1:{port}/") == "200 OK"


async def test_17_the_timestamp_is_that_of_a_clock_that_was_set() -> None:
    """Receivers reject a message that is five minutes old, and the proxy's clock follows a jump of
    the system's in hours.
    """
    wall, passed = 1_000_000.0, 0.0
    steady = SteadyClock(lambda: wall, lambda: passed)
    wall += 3600
    assert steady() < wall - 3590
    async with receiving() as receiver:
        settings = Webhooks(urls=(receiver.url,), secrets=(SecretStr(SECRET),))
        [endpoint] = endpoints(settings, steady)
        assert (await endpoint.post("msg_1", b"{}")).delivered
        await endpoint.close()
        assert receiver.posts[0].headers["webhook-timestamp"] == "1003600"
