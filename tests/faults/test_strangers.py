"""Clients that open as many connections as they can leave enough for exports and for connected
clients (§15).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
import trustme

from proxy.net.sockets import reset
from proxy.simulator import Simulator, SimulatorSettings
from tests.support.process import Caller, ProxyProcess
from tests.support.wire import Peer, ask, request_bytes

STRANGERS = 1100


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(SimulatorSettings(size=2_000_000))
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.mark.parametrize("tls", [False, True])
async def test_15_idle_connections_leave_descriptors_for_exports(
    simulator: Simulator, tmp_path: Path, tls: bool
) -> None:
    """1,100 silent connections, or TLS handshakes that never end, with a limit of 1,024
    descriptors.
    """
    settings = {"LISTEN__HANDSHAKE_TIMEOUT": "10m", "LISTEN__HEAD_TIMEOUT": "10m"}
    if tls:
        made = trustme.CA().issue_cert("localhost", "127.0.0.1")
        key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
        made.private_key_pem.write_to_path(key)
        made.cert_chain_pems[0].write_to_path(certificate)
        settings |= {"LISTEN__TLS_CERTIFICATE": str(certificate), "LISTEN__TLS_KEY": str(key)}
    proxy = ProxyProcess(tmp_path / "data", simulator.url, descriptors=1024, **settings)
    strangers: list[asyncio.StreamWriter] = []
    try:
        await proxy.start()
        assert any("allowed=312" in line for line in proxy.lines)
        port = int(proxy.url.rpartition(":")[2])
        connector = aiohttp.TCPConnector(ssl=False, limit=1)
        async with aiohttp.ClientSession(connector=connector) as http:
            caller = Caller(proxy, http, simulator.login())
            path = next(
                p
                for p in simulator.export_paths(simulator.open_session())
                if p.endswith("exportToPst")
            )
            assert (await caller.ask("GET", "/v8/Health"))[0] == 200
            strangers += [
                (await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(STRANGERS)
            ]
            for _ in range(3):
                job = await caller.kick_off(path)
                assert (await caller.finished(job))["status"] == "Success"
                assert len(await caller.file(job)) > 0
                assert (await caller.ask("GET", "/v8/Health"))[0] == 200
    finally:
        for writer in strangers:
            writer.close()
        await asyncio.gather(
            *(writer.wait_closed() for writer in strangers), return_exceptions=True
        )
        await proxy.kill()


def open_files(proxy: ProxyProcess) -> int:
    return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))


async def test_15_questions_that_vb365_does_not_answer_leave_descriptors(
    simulator: Simulator, tmp_path: Path
) -> None:
    """A kick-off with an invented JWT may need three: for the client, the preflight and the access
    check.
    """
    simulator.fault(path="RestoreSessions", method="GET", hang=True)
    path = simulator.export_paths(simulator.open_session())[0]

    def part(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    proxy = ProxyProcess(
        tmp_path / "data",
        simulator.url,
        descriptors=400,
        EXPORTS__PREFLIGHT_TIMEOUT="5s",
        UPSTREAM__CHECK_TIMEOUT="5s",
    )
    try:
        await proxy.start()

        async def kick_off(number: int) -> int:
            claims = f'{{"iss":"i","sub":"{number}"}}'
            token = ".".join((part('{"alg":"RS256"}'), part(claims), part("signature")))
            fields = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
            return (await ask(proxy.url, "POST", path, fields, b"{}")).status

        most = 0
        async with asyncio.timeout(60):
            kickoffs = asyncio.gather(*(kick_off(number) for number in range(110)))
            while not kickoffs.done():
                most = max(most, open_files(proxy))
                await asyncio.sleep(0.1)
        assert 401 in await kickoffs, "after the questions have timed out"
    finally:
        await proxy.kill()
    assert most < 400 - 4 * 4, "what is kept back for exports is left"


async def test_15_silent_connections_of_operators_leave_descriptors(
    simulator: Simulator, tmp_path: Path
) -> None:
    """The admin listener may be open to more hosts than its own."""
    proxy = ProxyProcess(tmp_path / "data", simulator.url, descriptors=400, LOG__LEVEL="info")
    silent: list[asyncio.StreamWriter] = []
    try:
        await proxy.start()
        before, port = open_files(proxy), urlsplit(proxy.admin_url).port
        silent += [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(100)]
        assert (await ask(proxy.admin_url, "GET", "/healthz")).status == 200
        assert open_files(proxy) - before <= 400 / 32
    finally:
        for writer in silent:
            writer.transport.abort()
        await proxy.kill()


class TokenChecker:
    """A VB365 that accepts one token, and takes its time with all others until `release`."""

    def __init__(self) -> None:
        self.invented = 0
        #: Set once 15 requests with other tokens have arrived.
        self.busy = asyncio.Event()
        self.release = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                status = b"200 OK"
                if b"Bearer known" not in head:
                    status = b"401 Unauthorized"
                    self.invented += 1
                    if self.invented == 15:
                        self.busy.set()
                    await self.release.wait()
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)
        writer.close()


async def test_15_questions_about_invented_tokens_leave_turns_to_known_callers(
    tmp_path: Path,
) -> None:
    """§9: at most 30 questions are in progress here, 18 of them about strangers. Those of strangers
    that have left are not asked.
    """
    vb365 = TokenChecker()
    server = await asyncio.start_server(vb365.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = {"UPSTREAM__CHECK_TIMEOUT": "5m", "ACCESS__CACHE": "1ms"}
    proxy = ProxyProcess(tmp_path / "data", url, descriptors=400, **settings)
    strangers: list[asyncio.StreamWriter] = []

    async def listed() -> int:
        fields = {"Authorization": "Bearer known"}
        return (await ask(proxy.url, "GET", "/v8/_async/exports", fields)).status

    try:
        await proxy.start()
        assert await listed() == 200
        for number in range(60):
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            target = f"/v8/_async/exports/{uuid4()}"
            writer.write(f"GET {target} HTTP/1.1\r\nHost: p\r\n".encode())
            writer.write(f"Authorization: Bearer {number}\r\n\r\n".encode())
            strangers.append(writer)
        async with asyncio.timeout(20):
            await vb365.busy.wait()
        assert await listed() == 200, "while VB365 answers no stranger"
        for writer in strangers:
            reset(cast("asyncio.Transport", writer.transport))
        for _ in range(3):
            assert await listed() == 200, "those that have left are noticed"
        asked = vb365.invented
        vb365.release.set()
        for _ in range(10):
            assert await listed() == 200
            await asyncio.sleep(0.02)
        assert vb365.invented == asked < 30, "nobody waits for the other responses"
    finally:
        for writer in strangers:
            writer.transport.abort()
        vb365.release.set()
        await proxy.kill()
        server.close()


async def test_16_streams_of_events_leave_connections_for_health_checks(
    simulator: Simulator, tmp_path: Path
) -> None:
    """The connection of a stream is never closed to make room for another."""
    proxy = ProxyProcess(tmp_path / "data", simulator.url, descriptors=400, LOG__LEVEL="info")
    streams: list[Peer] = []
    try:
        await proxy.start()
        for _ in range(10):
            streams.append(await Peer.to(proxy.admin_url))
            await streams[-1].send(request_bytes("GET", "/api/events", {}, None, "localhost"))
            await streams[-1].head()
        assert (await ask(proxy.admin_url, "GET", "/healthz")).status == 200
        assert (await ask(proxy.admin_url, "GET", "/readyz")).status == 200
    finally:
        for peer in streams:
            peer.abort()
        await proxy.kill()
