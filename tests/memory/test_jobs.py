"""The memory of a real `serve` process while it stores and serves (issue 2 "Done when", CONTRACT
§6, §10).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import Kind, expected_sha256
from tests.interop.test_clients import Scene, explored

LIMIT = 128 << 20
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="VmHWM is told by Linux alone"
)


@asynccontextmanager
async def program(*arguments: str, says: str, **environ: str) -> AsyncIterator[tuple[int, str]]:
    """A command of ours, running: its pid, and the URL that it says it listens on."""
    command = [sys.executable, "-m", "proxy", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        shown = b""
        while (found := re.search(says, shown.decode())) is None:
            line = await asyncio.wait_for(process.stdout.readline(), 30)
            assert line, shown.decode()
            shown += line
        reading = asyncio.create_task(process.stdout.read())
        yield process.pid, found[1]
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 30)
    await reading


def most_memory(pid: int) -> int:
    """The most that was ever resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


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
    listening = r"(https?://[0-9.]+:\d+)"
    environ = {
        "VB365_PROXY_LISTEN__ADDRESS": "127.0.0.1:0",
        "VB365_PROXY_ADMIN__ADDRESS": "127.0.0.1:0",
        "VB365_PROXY_STORAGE__DIR": str(tmp_path / "data"),
        "VB365_PROXY_STORAGE__MIN_FREE": "1MiB",
    }
    async with (
        program("simulate", "--port", "0", "--size", f"{size >> 20}MiB", says=listening) as (
            _,
            upstream,
        ),
        program("serve", "--upstream", upstream, says=rf"listening on {listening}", **environ) as (
            pid,
            url,
        ),
    ):
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
        assert most_memory(pid) < LIMIT
