"""The memory of a real `serve` process while it stores and serves (issue 2 "Done when", CONTRACT
§6, §10).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import Kind, expected_sha256
from tests.interop.test_clients import Scene, explored
from tests.support.commands import listening
from tests.support.process import served

LIMIT = 128 << 20
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="only Linux has VmHWM: the memory of jobs is not tested here",
)


async def stored(http: aiohttp.ClientSession, scene: Scene) -> str:
    """Export and wait; the URL of the job."""
    async with http.post(
        scene.url + scene.export, headers={"Prefer": "respond-async, wait=0"}, json={}
    ) as response:
        assert response.status == 202, await response.text()
        job = response.headers["Location"]
    while True:
        async with http.get(job, headers={"Prefer": "wait=30"}) as response:
            document = await response.json()
            if response.status == 200:
                break
    assert document["status"] == "Success", document
    return job


async def digest(http: aiohttp.ClientSession, url: str) -> str:
    found = hashlib.sha256()
    async with http.get(url) as response:
        assert response.status == 200
        async for chunk in response.content.iter_any():
            found.update(chunk)
    return found.hexdigest()


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(200 << 20, id="200 MiB"),
        pytest.param(5 << 30, id="5 GiB", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
async def test_storing_and_serving_costs_less_than_128_MiB_whatever_the_size(
    size: int, tmp_path: Path
) -> None:
    """Issue 2, §10: the file is never in memory, and comes out as it went in."""
    line = ("simulate", "--port", "0", "--quiet", "--size", f"{size >> 20}MiB")
    with listening(*line) as (_, upstream):
        async with served(upstream, tmp_path / "data", LOG__LEVEL="info") as proxy:
            await store_and_serve(proxy.url, size)
            assert proxy.memory("VmHWM") < LIMIT


async def store_and_serve(url: str, size: int) -> None:
    scene = await explored(url)
    allowed = {"Authorization": f"Bearer {scene.token}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with aiohttp.ClientSession(
        headers=allowed, timeout=timeout, read_bufsize=1 << 20
    ) as http:
        job = await stored(http, scene)
        assert await digest(http, f"{job}/result") == expected_sha256(size, Kind.PST)
        async with http.delete(job) as response:
            assert response.status == 204
