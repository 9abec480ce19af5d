"""Large files through balancers (CONTRACT §6)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import SimulatorSettings
from tests.interop.balancers.balancer import default_nginx
from tests.interop.balancers.conftest import Scene, SceneMaker, port_of, proxying, standing
from tests.interop.balancers.test_exports import mailbox

MIB = 1 << 20
#: nginx logs this when it buffers a response on disk: by default up to 1 GiB, after which it stops
#: reading from upstream.
ASIDE = "an upstream response is buffered to a temporary file"


async def digest_of(response: aiohttp.ClientResponse, *, dawdle: float = 0.0) -> str:
    """SHA-256 of the body in base64; `dawdle` seconds of not reading come first, in which buffers
    fill up.
    """
    digest = hashlib.sha256()
    await asyncio.sleep(dawdle)
    async for chunk in response.content.iter_chunked(MIB):
        digest.update(chunk)
    return base64.b64encode(digest.digest()).decode()


async def verified(here: Scene, size: int) -> None:
    path = mailbox(here)
    job = await here.kick_off(path)
    document = await here.outcome(job)
    async with here.http.get(f"{job}/result", headers=here.vb365.login()) as response:
        assert response.status == 200
        assert response.content_length == size
        found = await digest_of(response)
    assert found == document["result"]["digest"]["sha-256"]
    assert bytes.fromhex(here.vb365.content(path).sha256()) == base64.b64decode(found)


async def test_a_file_arrives_complete(scene: SceneMaker) -> None:
    """CONTRACT §6: with the shipped configuration, its digest that of what VB365 sent."""
    async with scene(stand_in=SimulatorSettings(size=48 * MIB)) as here:
        await verified(here, 48 * MIB)


@pytest.mark.slow
async def test_a_file_over_1_gib_arrives_complete(scene: SceneMaker) -> None:
    async with scene(stand_in=SimulatorSettings(size=1100 * MIB)) as here:
        await verified(here, 1100 * MIB)


async def through_default_nginx(size: int, place: Path, *, control: bool) -> None:
    """An export and its download by a client that dawdles, through nginx with nothing set;
    `control` downloads what VB365 answers itself, too.
    """
    async with (
        standing(SimulatorSettings(size=size)) as vb365,
        proxying(vb365.url, place) as proxy,
        default_nginx(place, port_of(proxy.url)) as balancer,
        aiohttp.ClientSession(read_bufsize=1 << 14) as http,
    ):
        here = Scene(vb365, proxy, balancer, http)
        session = vb365.open_session()
        path = next(
            path for path in vb365.export_paths(session) if path.lower().endswith("/exporttopst")
        )
        fields = vb365.login() | {"Prefer": "respond-async"}
        url = balancer.url().replace("https", "http")
        async with http.post(url + path, data=b"{}", headers=fields) as response:
            assert response.status == 202
            job = (
                url
                + response.headers["Location"].partition("/v8/")[1]
                + response.headers["Location"].partition("/v8/")[2]
            )
        document = await here.outcome(job)
        assert document["status"] == "Success", document
        async with http.get(f"{job}/result", headers=fields) as response:
            assert response.status == 200
            assert await digest_of(response, dawdle=0.5) == document["result"]["digest"]["sha-256"]
        assert ASIDE not in balancer.output()
        if control:
            async with http.post(url + path, data=b"{}", headers=vb365.login()) as response:
                await digest_of(response, dawdle=0.5)
            assert ASIDE in balancer.output(), "nginx buffers unless it is told not to"


async def test_default_nginx_buffers_no_file_on_disk(
    default_nginx_only: None, tmp_path: Path
) -> None:
    """CONTRACT §6: X-Accel-Buffering: no; else nginx would cut a slow client's download after 1
    GiB.
    """
    await through_default_nginx(24 * MIB, tmp_path, control=True)


@pytest.mark.slow
async def test_a_file_over_1_gib_passes_default_nginx(
    default_nginx_only: None, tmp_path: Path
) -> None:
    await through_default_nginx(1100 * MIB, tmp_path, control=False)
