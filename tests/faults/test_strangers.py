"""Clients that open as many connections as they can leave enough for exports and for connected
clients (§15).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme

from proxy.simulator import Simulator, SimulatorSettings
from tests.support.process import Caller, ProxyProcess
from tests.support.wire import ask

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
        assert any("allowed=357" in line for line in proxy.lines)
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
            kickoffs = asyncio.gather(*(kick_off(number) for number in range(130)))
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
