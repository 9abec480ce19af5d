"""Caddy with examples/caddy/Caddyfile, as it is but for addresses and the certificate."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import SimulatorSettings
from tests.interop.balancers.balancer import (
    THROUGH,
    Balancer,
    Files,
    filled,
    program,
    reserved,
    running,
)
from tests.interop.balancers.conftest import Scene, port_of, proxying, standing
from tests.interop.balancers.test_exports import mailbox
from tests.interop.balancers.test_wire import to
from tests.support.commands import ROOT
from tests.support.upstreams import Origin
from tests.unit.upstream.test_private_connections import Windows, answered, asking

CADDYFILE = ROOT / "examples" / "caddy" / "Caddyfile"
SIZE = 200_000_000

pytestmark = pytest.mark.skipif(
    program("caddy") is None, reason="caddy is not installed: the proxy behind it is not tested"
)


@contextlib.asynccontextmanager
async def caddy(
    place: Path, files: Files, proxy: int, changes: dict[str, str] | None = None
) -> AsyncIterator[Balancer]:
    """Caddy in front of the port `proxy`."""
    with reserved() as holder:
        port = holder.getsockname()[1]
        here = {
            "vb365.example.com {": f"https://localhost:{port} {{\n\tbind 127.0.0.1\n"
            f"\ttls {files.chain} {files.key}",
            "127.0.0.1:4443 {": f"127.0.0.1:{proxy} {{",
        }
        options = f"{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {place}/caddy\n}}\n"
        shipped = CADDYFILE.read_text(encoding="utf-8")
        (place / "Caddyfile").write_text(options + filled(shipped, here | (changes or {})))
        command = [str(program("caddy")), "run", "--config", str(place / "Caddyfile")]
        environment = ["env", f"HOME={place}", f"XDG_DATA_HOME={place}"]
        environment += [f"XDG_CONFIG_HOME={place}", f"PATH={os.environ['PATH']}"]
        async with running([*environment, *command], {THROUGH: port}, place) as balancer:
            yield balancer


@contextlib.asynccontextmanager
async def behind_caddy(
    place: Path,
    files: Files,
    trusting: ssl.SSLContext,
    stand_in: SimulatorSettings,
    changes: dict[str, str] | None = None,
) -> AsyncIterator[Scene]:
    async with (
        standing(stand_in) as vb365,
        proxying(vb365.url, place) as proxy,
        caddy(place, files, port_of(proxy.url), changes) as balancer,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusting),
            timeout=aiohttp.ClientTimeout(total=60),
        ) as http,
    ):
        yield Scene(vb365, proxy, balancer, http)


async def test_a_large_file_arrives_complete_and_in_ranges(
    tmp_path: Path, files: Files, trusting: ssl.SSLContext
) -> None:
    """Kick-off, polls, a download of 200 MB and the rest of a broken one (CONTRACT §3, §4, §6)."""
    async with behind_caddy(tmp_path, files, trusting, SimulatorSettings(size=SIZE)) as here:
        path = mailbox(here)
        job = await here.kick_off(path, Forwarded="host=evil.example")
        assert job.startswith(f"{here.balancer.url()}/v8/_async/exports/")
        document = await here.outcome(job)
        assert document["status"] == "Success"
        digest, fields = hashlib.sha256(), here.vb365.login()
        async with here.http.get(f"{job}/result", headers=fields) as response:
            assert (response.status, response.content_length) == (200, SIZE)
            async for chunk in response.content.iter_chunked(1 << 20):
                digest.update(chunk)
        assert digest.hexdigest() == here.vb365.content(path).sha256()
        found = base64.b64encode(digest.digest()).decode()
        assert found == document["result"]["digest"]["sha-256"]
        wanted = fields | {"Range": f"bytes={SIZE - 1000}-", "If-Range": response.headers["ETag"]}
        async with here.http.get(f"{job}/result", headers=wanted) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes {SIZE - 1000}-{SIZE - 1}/{SIZE}"
            tail = here.vb365.content(path).chunks(SIZE - 1000, SIZE)
            assert await response.read() == b"".join(map(bytes, tail))


async def test_an_export_outlives_the_time_out(
    tmp_path: Path, files: Files, trusting: ssl.SSLContext
) -> None:
    """VB365 is silent until the synchronous request has failed. Polls wait for a second."""
    hasty = {"response_header_timeout 60s": "response_header_timeout 2s"}
    async with behind_caddy(tmp_path, files, trusting, SimulatorSettings(), hasty) as here:
        here.vb365.fault(path="exportToPst", hold=True)
        job = await here.kick_off(mailbox(here))
        url = here.balancer.url() + mailbox(here)
        async with here.http.post(url, data=b"{}", headers=here.vb365.login()) as response:
            assert response.status in (502, 504)
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(here.outcome(job))
            await here.vb365.until(lambda: here.vb365.held > 0)
            here.vb365.release()
        assert ended.result()["status"] == "Success"


@pytest.mark.parametrize("scheme", [b"NTLM", b"Negotiate", b"Nego2", b"Bearer x, Negotiate"])
@pytest.mark.parametrize("tokens", [(b"", b"hello", b"alice"), (b"alice",)])
async def test_nobody_is_taken_for_the_client_that_has_authenticated_a_connection(
    tokens: tuple[bytes, ...],
    scheme: bytes,
    files: Files,
    tmp_path: Path,
    trusting: ssl.SSLContext,
) -> None:
    """CONTRACT §12: Caddy uses its connections to the proxy for all clients."""
    windows = Windows(scheme, at_once=len(tokens) == 1)
    async with (
        Origin(windows).running() as origin,
        proxying(origin.url, tmp_path) as proxy,
        caddy(tmp_path, files, port_of(proxy.url)) as balancer,
    ):
        alice = await to(balancer, trusting)
        for token in tokens:
            await answered(alice, for_localhost(asking(token=token, scheme=scheme)))
        for _ in range(4):
            stranger = await to(balancer, trusting)
            for method in (b"GET", b"POST"):
                assert (await answered(stranger, for_localhost(asking(method))))[0] == 401
            stranger.abort()
        alice.abort()


def for_localhost(request: bytes) -> bytes:
    """The request with the Host for which Caddy has a site."""
    return request.replace(b"Host: h\r\n", b"Host: localhost\r\n")
