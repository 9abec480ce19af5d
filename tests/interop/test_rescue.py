"""Clients that are not changed, with short timeouts and retries, behind a real nginx (CONTRACT
§14).
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from veeam_365.client import VeeamClient
from veeam_365.v8.api.exchange_mailbox import (
    exchange_mailbox_export_mailbox_to_pst_action as export,
)
from veeam_365.v8.models.rest_export_folder_to_pst import RESTExportFolderToPst

from proxy import app
from proxy.simulator import Simulator, SimulatorSettings
from tests.interop.balancers.balancer import THROUGH, nginx, program, reserved, running
from tests.support.local_proxy import settings_of
from tests.support.programs import ended
from tests.support.wire import ask

#: Seconds: what VB365 takes for the export, when nginx gives up, and when a client does.
GENERATE, PATIENCE, TIMEOUT = 6.0, 2, 1
#: Whether Debian's package is installed.
HAS_GUZZLE = Path("/usr/share/php/GuzzleHttp/autoload.php").exists()
SITE = (
    "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{proxy}; "
    "proxy_read_timeout {patience}s; proxy_next_upstream off; }} }}"
)
REQUESTS = """
import sys
import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry
url, token, path, timeout = sys.argv[1:]
retry = Retry(total=60, allowed_methods=None, status_forcelist=[502, 504], backoff_factor=0.1)
session = requests.Session()
session.mount("http://", HTTPAdapter(max_retries=retry))
headers = {"Authorization": token, "Content-Type": "application/json"}
response = session.post(url, data=b"{}", headers=headers, timeout=float(timeout))
response.raise_for_status()
open(path, "wb").write(response.content)
"""
GUZZLE = """<?php
require "GuzzleHttp/autoload.php";
use GuzzleHttp\\Exception\\ConnectException;
[, $url, $token, $path, $timeout] = $argv;
$tries = 0;
$again = function ($retries, $request, $response, $why) use (&$tries) {
    $tries++;
    return $why instanceof ConnectException && $retries < 60;
};
$stack = new GuzzleHttp\\HandlerStack(new GuzzleHttp\\Handler\\CurlHandler());
$stack->push(GuzzleHttp\\Middleware::httpErrors());
$stack->push(GuzzleHttp\\Middleware::retry($again, fn() => 100));
$client = new GuzzleHttp\\Client(["handler" => $stack, "timeout" => (float) $timeout]);
$headers = ["Content-Type" => "application/json", "Authorization" => $token];
$client->post($url, ["headers" => $headers, "body" => "{}", "sink" => $path]);
exit($tries > 1 ? 0 : 2);
"""


@dataclass(frozen=True)
class Scene:
    """VB365, the proxy with `rescue_sync`, and nginx in front of it."""

    simulator: Simulator
    proxy: str
    nginx: str
    token: str
    path: str

    def check(self, file: Path) -> None:
        """The file is right, and VB365 saw one POST."""
        expected = self.simulator.content(self.path).sha256()
        assert hashlib.sha256(file.read_bytes()).hexdigest() == expected
        posts = [
            one
            for one in self.simulator.requests
            if one.method == "POST" and one.target == self.path
        ]
        assert len(posts) == 1


@pytest.fixture
async def scene(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """The export takes `GENERATE` seconds, or the parameter."""
    if program("nginx") is None:
        pytest.skip("nginx is not installed (make system): rescue behind it is not tested")
    generate = getattr(request, "param", GENERATE)
    simulator = Simulator(SimulatorSettings(size=3_000_000, generate=generate))
    await simulator.start()
    given = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__GRACE": "2s"}
    proxy = await app.start(settings_of(simulator.url, tmp_path / "data", given))
    session = simulator.open_session()
    path = next(p for p in simulator.export_paths(session) if p.endswith("exportToPst"))
    token = simulator.login()["Authorization"]
    port = int(proxy.url.rpartition(":")[2])
    try:
        with reserved() as holder:
            front = holder.getsockname()[1]
            site = SITE.format(port=front, proxy=port, patience=PATIENCE)
            async with running(nginx(site, tmp_path), {THROUGH: front}, tmp_path):
                yield Scene(simulator, proxy.url, f"http://127.0.0.1:{front}", token, path)
    finally:
        await proxy.stop()
        await simulator.stop()


@pytest.mark.parametrize("behind", ["nginx", "nothing"])
async def test_14_curl_with_retries_gets_the_file(
    scene: Scene, tmp_path: Path, behind: str
) -> None:
    """§14: VB365 sees one POST, whoever gives up first."""
    base = scene.nginx if behind == "nginx" else scene.proxy
    file = tmp_path / "file"
    await ended(
        *("curl", "-sS", "-f", "--retry", "60", "--retry-all-errors", "--retry-delay", "1"),
        *(["--max-time", str(TIMEOUT)] if behind == "nothing" else []),
        *("-X", "POST", "-d", "{}", "-H", f"Authorization: {scene.token}"),
        *("-H", "Content-Type: application/json", "-o", str(file), base + scene.path),
    )
    scene.check(file)


@pytest.mark.parametrize("behind", ["nginx", "nothing"])
async def test_14_requests_with_urllib3_retries_gets_the_file(
    scene: Scene, tmp_path: Path, behind: str
) -> None:
    base = scene.nginx if behind == "nginx" else scene.proxy
    timeout = 30 if behind == "nginx" else TIMEOUT
    file = tmp_path / "file"
    url = base + scene.path
    await ended(sys.executable, "-c", REQUESTS, url, scene.token, str(file), str(timeout))
    scene.check(file)


@pytest.mark.parametrize("scene", [2.5], indirect=True)
async def test_14_guzzle_with_retries_gets_the_file(scene: Scene, tmp_path: Path) -> None:
    """§14: PHP's client, over curl; its sink begins again with each try."""
    if program("php") is None or not HAS_GUZZLE:
        pytest.skip("php or Guzzle is not installed (make system): Guzzle's retries are not tested")
    script, file = tmp_path / "export.php", tmp_path / "file"
    script.write_text(GUZZLE)
    url = scene.proxy + scene.path
    await ended("php", str(script), url, scene.token, str(file), str(TIMEOUT))
    scene.check(file)


async def test_14_aria2_gets_the_file_of_a_rescued_export_over_several_connections(
    scene: Scene, tmp_path: Path
) -> None:
    """§6, §14: it cannot send a POST, so it downloads the result of the job, which its owner
    finds in the list.
    """
    if program("aria2c") is None:
        pytest.skip("aria2c is not installed (make system): its download of a result is not tested")
    fields = {"Authorization": scene.token}
    response = await ask(scene.proxy, "POST", scene.path, fields, b"{}")
    assert response.status == 200
    [job] = (await ask(scene.proxy, "GET", "/v8/_async/exports", fields)).json()["results"]
    url, file = f"/v8/_async/exports/{job['id']}", tmp_path / "file"
    async with asyncio.timeout(60):  # it is being committed
        while (await ask(scene.proxy, "GET", url, fields | {"Prefer": "wait=30"})).status == 202:
            pass
    await ended(
        *("aria2c", "--quiet", "--no-conf", "--split=3", "--max-connection-per-server=3"),
        *("--min-split-size=1M", f"--header=Authorization: {scene.token}"),
        *(f"--dir={tmp_path}", f"--out={file.name}", f"{scene.proxy}{url}/result"),
    )
    scene.check(file)


async def test_14_curl_gets_the_rest_of_a_download_with_a_range(
    scene: Scene, tmp_path: Path
) -> None:
    """§14: `Range` on the same POST, while VB365 works on it."""
    file = tmp_path / "rest"
    post = (
        *("curl", "-sS", "-f", "-X", "POST", "-d", "{}", "-H", f"Authorization: {scene.token}"),
        *("-H", "Content-Type: application/json", scene.proxy + scene.path),
    )
    left = await asyncio.create_subprocess_exec(*post, "-o", str(tmp_path / "left"))
    await scene.simulator.until(lambda: len(scene.simulator.generations) > 0)
    left.kill()
    await left.wait()
    await ended(*post, "-H", "Range: bytes=1000000-", "-o", str(file))
    first = bytes(scene.simulator.content(scene.path).read(0, 1_000_000))
    file.write_bytes(first + file.read_bytes())
    scene.check(file)


async def test_14_veeam_365_with_retries_gets_the_file(scene: Scene, tmp_path: Path) -> None:
    """§14: its timeout is an exception of httpx; the same call again gets the file. The library
    cannot parse a file as a model, so a hook stores the bytes.
    """
    session = scene.simulator.sessions.get(scene.path.split("/")[3])
    assert session is not None
    paths = [path.split("/") for path in scene.simulator.export_paths(session)]
    path = next(one for one in paths if one[5:6] == ["mailboxes"] and one[7:] == ["exportToPst"])
    file, timeouts = tmp_path / "file", 0

    async def keep(response: httpx.Response) -> None:
        if response.request.url.path.endswith(path[-1]) and response.status_code == 200:
            file.write_bytes(await response.aread())

    client = VeeamClient(scene.proxy, "alice", "secret-a", "v8", timeout=2)
    client._httpx_args["event_hooks"] = {"response": [keep]}
    async with client, asyncio.timeout(60):
        await client.connect()
        body = RESTExportFolderToPst(content_keyword="")
        while not file.exists():
            try:
                await client.call(export.asyncio_detailed, UUID(path[3]), UUID(path[6]), body=body)
            except httpx.ReadTimeout:
                timeouts += 1
            except TypeError:
                assert file.exists()
    assert timeouts > 0
    replace(scene, path="/".join(path)).check(file)
