"""Clients of the wild against the running proxy: veeam-365, azure-core, curl, and what
docs/clients.md says.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import httpx
import pytest
from azure.core import PipelineClient
from azure.core.pipeline.policies import HeadersPolicy, RequestIdPolicy
from azure.core.polling import LROPoller
from azure.core.polling.base_polling import LROBasePolling
from azure.core.rest import HttpRequest
from veeam_365.client import VeeamClient

from proxy.simulator import Kind, Simulator, SimulatorSettings, expected_sha256
from tests.support.local_proxy import local_proxy
from tests.support.programs import ended

ROOT = Path(__file__).parents[2]
SIZE = 3_000_000
USER, PASSWORD = "alice", "secret-a"


@dataclass(frozen=True)
class Scene:
    """The proxy in front of the stand-in: its URL, a token, and the path of an export."""

    url: str
    token: str
    export: str

    def environment(self, place: Path) -> dict[str, str]:
        """What docs/clients.md expects, for a program that runs in `place`."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        login = {"VB365_USERNAME": USER, "VB365_PASSWORD": PASSWORD}
        about = {"VB365_URL": self.url, "VB365_TOKEN": self.token, "EXPORT": self.export}
        return {"PATH": path, "HOME": str(place), "PYTHONPATH": str(ROOT), **login, **about}


@pytest.fixture
async def stand_in() -> AsyncIterator[Simulator]:
    stand_in = Simulator(SimulatorSettings(size=SIZE, generate=0.5))
    await stand_in.start("127.0.0.1", 0)
    yield stand_in
    await stand_in.stop()


@pytest.fixture
async def scene(stand_in: Simulator, tmp_path: Path) -> AsyncIterator[Scene]:
    async with local_proxy(stand_in.url, tmp_path / "data", EXPORTS__GRACE="100ms") as running:
        yield await explored(running.url)


async def explored(url: str) -> Scene:
    """Log in and open a restore session, through the proxy."""
    async with aiohttp.ClientSession(url, raise_for_status=True) as http:

        async def call(method: str, path: str, **given: Any) -> Any:
            async with http.request(method, path, **given) as response:
                return await response.json()

        form = {
            "grant_type": "password",
            "username": USER,
            "password": PASSWORD,
            "disable_antiforgery_token": "true",
        }
        token = (await call("POST", "/v8/token", data=form))["access_token"]
        mine = {"Authorization": f"Bearer {token}"}
        organization = (await call("GET", "/v8/Organizations", headers=mine))["results"][0]["id"]
        restore = {"dateTime": "2026-11-23T00:00:00Z", "type": "vex"}
        session = await call(
            "POST", f"/v8/Organizations/{organization}/explore", headers=mine, json=restore
        )
        mailboxes = f"/v8/RestoreSessions/{session['id']}/organization/mailboxes"
        mailbox = (await call("GET", mailboxes, headers=mine))["results"][0]["id"]
    return Scene(url, token, f"{mailboxes}/{mailbox}/exportToPst")


async def run(program: list[str], scene: Scene, place: Path, *, code: int = 0) -> str:
    """The program's stdout; it must end with `code` within a minute."""
    environment = scene.environment(place)
    return (await ended(*program, limit=60, code=code, cwd=place, env=environment)).stdout


def assert_is_the_export(file: bytes) -> None:
    assert len(file) == SIZE
    assert hashlib.sha256(file).hexdigest() == expected_sha256(SIZE, Kind.PST)


def snippets(heading: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks under a heading of docs/clients.md."""
    text = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w+)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


async def test_veeam_365_exports_asynchronously_with_one_event_hook(scene: Scene) -> None:
    """Issue 2 item 9, CONTRACT §3, §6: a client written for synchronous exports gets the 202
    through unchanged code.
    """
    from veeam_365.v8.api.exchange_mailbox import (
        exchange_mailbox_export_mailbox_to_pst_action as export,
    )
    from veeam_365.v8.api.exchange_mailbox import exchange_mailbox_get as mailboxes
    from veeam_365.v8.models.rest_export_folder_to_pst import RESTExportFolderToPst

    async def prefer_async(request: httpx.Request) -> None:
        if request.method == "POST" and request.url.path.endswith("/exportToPst"):
            request.headers["Prefer"] = "respond-async"

    session = UUID(scene.export.split("/")[3])
    client = VeeamClient(scene.url, USER, PASSWORD, "v8")
    client._httpx_args["event_hooks"] = {"request": [prefer_async]}
    async with client:
        await client.connect()
        page = await client.call(mailboxes.asyncio, session)
        body = RESTExportFolderToPst(content_keyword="")
        response = await client.call(
            export.asyncio_detailed, session, page.results[0].id, body=body
        )
        assert response.status_code == 202
        assert response.parsed.additional_properties["status"] == "Running"
        token = client._access_token
    assert_is_the_export(await followed(response.headers["Location"], token))


async def followed(job: str, token: str) -> bytes:
    """Poll while 202 (CONTRACT §4), then fetch the result."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
        for _ in range(20):
            poll = await http.get(job)
            if poll.status_code != 202:
                break
            await asyncio.sleep(int(poll.headers["Retry-After"]))
        assert poll.json()["status"] == "Success"
        result = await http.get(f"{job}/result")
        digest = base64.b64encode(hashlib.sha256(result.content).digest()).decode()
        assert result.headers["Repr-Digest"] == f"sha-256=:{digest}:"
        return result.content


def polled_by_azure(scene: Scene) -> tuple[str, dict[str, Any]]:
    """What azure-core's poller makes of the kick-off's answer."""
    mine = HeadersPolicy({"Authorization": f"Bearer {scene.token}"})
    client: PipelineClient[Any, Any] = PipelineClient(scene.url, policies=[RequestIdPolicy(), mine])
    with client:
        kick_off = HttpRequest(
            "POST", scene.url + scene.export, headers={"Prefer": "respond-async"}, json={}
        )
        response = client._pipeline.run(kick_off)
        assert response.http_response.status_code == 202
        poller = LROPoller(
            client,
            response,
            lambda ended: json.loads(ended.http_response.text()),
            LROBasePolling(timeout=1),
        )
        document = poller.result(30)
        return poller.status(), document


async def test_azure_cores_poller_follows_location_to_succeeded(scene: Scene) -> None:
    """Issue 2 item 9, CONTRACT §3, §4: an absolute Location, 202 while running, 200 at the end."""
    status, document = await asyncio.to_thread(polled_by_azure, scene)
    assert (status, document["status"], document["result"]["format"]) == (
        "Succeeded",
        "Success",
        "Pst",
    )


async def test_plain_curl_waits_for_the_file_by_retrying(scene: Scene, tmp_path: Path) -> None:
    """Issue 2 item 9, CONTRACT §6: 409 with Retry-After until the file is there; no polling, no
    JSON.
    """
    mine = ["-H", f"Authorization: Bearer {scene.token}"]
    options = [
        *mine,
        "-H",
        "Prefer: respond-async",
        "-H",
        "Content-Type: application/json",
        "-d",
        "{}",
    ]
    curl = ["curl", "-sS", "-f"]
    job = await run(
        [*curl, "-o", "202", "-w", "%header{location}", *options, scene.url + scene.export],
        scene,
        tmp_path,
    )
    got = ["--retry", "20", "--retry-all-errors", "-o", "mailbox.pst", f"{job}/result"]
    await run([*curl, *mine, "-v", "--stderr", "heads", *got], scene, tmp_path)
    heads = (tmp_path / "heads").read_text(encoding="utf-8")
    assert re.findall(r"^< HTTP/1.1 (\d+)", heads, re.MULTILINE)[:1] == ["409"]
    assert_is_the_export((tmp_path / "mailbox.pst").read_bytes())


@pytest.mark.parametrize("heading", ["Python: requests", "Python: httpx", "Python: veeam-365"])
async def test_the_documented_python_works_unchanged(
    scene: Scene, tmp_path: Path, heading: str
) -> None:
    ((language, text),) = snippets(heading)
    assert language == "python"
    (tmp_path / "snippet.py").write_text(text, encoding="utf-8")
    out = await run([sys.executable, "snippet.py"], scene, tmp_path)
    if heading == "Python: veeam-365":
        job = out.split()[-1]
        assert_is_the_export(await followed(job, scene.token))
    else:
        assert_is_the_export((tmp_path / "mailbox.pst").read_bytes())


async def test_the_documented_curl_works_unchanged(scene: Scene, tmp_path: Path) -> None:
    """Both blocks in one shell, as a reader would paste them."""
    blocks = [text for language, text in snippets("curl") if language == "bash"]
    assert len(blocks) == 2
    out = await run(["bash", "-euo", "pipefail", "-c", "".join(blocks)], scene, tmp_path)
    assert_is_the_export((tmp_path / "mailbox.pst").read_bytes())
    assert out.splitlines()[-1] == "mailbox.pst: OK"


async def test_the_documented_curl_ends_when_the_export_fails(
    scene: Scene, stand_in: Simulator, tmp_path: Path
) -> None:
    """It says why, fetches nothing and fails."""
    stand_in.fault(path="exportToPst", method="POST", outlook_missing=True)
    kick_off, _ = (text for language, text in snippets("curl") if language == "bash")
    out = await run(["bash", "-euo", "pipefail", "-c", kick_off], scene, tmp_path, code=1)
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "Failed"
    assert (
        out.splitlines()[-1]
        == json.loads((tmp_path / "status.json").read_text())["error"]["message"]
    )
    assert not (tmp_path / "mailbox.pst").exists()


async def test_the_documented_curl_ends_when_the_token_expires(
    scene: Scene, stand_in: Simulator, tmp_path: Path
) -> None:
    stand_in.fault(path="exportToPst", method="POST", generate=30.0)
    kick_off, _ = (text for language, text in snippets("curl") if language == "bash")
    expired = kick_off.replace("while code", "VB365_TOKEN=expired\nwhile code")
    await run(["bash", "-euo", "pipefail", "-c", expired], scene, tmp_path, code=1)
    assert not (tmp_path / "mailbox.pst").exists()


async def test_the_export_command_works_as_documented(scene: Scene, tmp_path: Path) -> None:
    """CONTRACT §15."""
    ((_, text),) = snippets("The export command")
    out = await run(["bash", "-euo", "pipefail", "-c", text], scene, tmp_path)
    assert_is_the_export((tmp_path / out.strip()).read_bytes())


async def test_many_exports_work_as_documented(scene: Scene, tmp_path: Path) -> None:
    ((_, text),) = snippets("Many exports")
    out = await run(["bash", "-euo", "pipefail", "-c", text], scene, tmp_path)
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:2] for row in rows] == [
        ["alice@contoso.com", "Success"],
        ["bob@contoso.com", "Success"],
    ]
    for row in rows:
        assert_is_the_export((tmp_path / row[2]).read_bytes())


async def test_the_jobs_commands_list_cancel_and_delete(scene: Scene, tmp_path: Path) -> None:
    """CONTRACT §7, §15: kick off without waiting, list, cancel, delete; user name and password
    instead of a token.

    Each login has a token of its own, and tokens are opaque: it sees the job by the session, not as
    its own (§2).
    """

    async def command(*line: str) -> str:
        login = ["env", "-u", "VB365_TOKEN", "vb365-async-proxy"]
        return (await run([*login, *line], scene, tmp_path)).strip()

    job = await command("export", "--path", scene.export, "--body", "{}", "--no-download")
    of_session = ("jobs", "list", "--json", "--session", scene.export.split("/")[3])
    listed = json.loads(await command(*of_session))["results"]
    assert [entry["_links"]["self"]["href"] for entry in listed] == [job]
    cancelled = json.loads(await command("jobs", "cancel", job))
    assert cancelled["phase"] in ("Cancelling", "Completed")
    await command("jobs", "delete", listed[0]["id"])
    assert json.loads(await command(*of_session))["results"] == []
