"""What tools make of the OpenAPI document of a running proxy: a generated client exports a mailbox,
and schemathesis finds no response that is not described (CONTRACT §2).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Kind, Simulator, SimulatorSettings, expected_sha256
from tests.interop.test_clients import Scene, explored
from tests.support.local_proxy import local_proxy
from tests.support.programs import run

SIZE = 300_000


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    stand_in = Simulator(SimulatorSettings(size=SIZE, generate=0.05))
    await stand_in.start("127.0.0.1", 0)
    async with local_proxy(stand_in.url, tmp_path / "data", EXPORTS__GRACE="1ms") as running:
        yield await explored(running.url)
    await stand_in.stop()


async def fetched(url: str, place: Path) -> Path:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as http,
        http.get(f"{url}/_async/openapi.json") as response,
    ):
        path = place / "openapi.json"
        path.write_bytes(await response.read())
    return path


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place from which a generated package can be imported; forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "generated"]:
        del sys.modules[name]


async def test_a_generated_client_exports_a_mailbox(scene: Scene, imported: Path) -> None:
    """With openapi-python-client: kick-off, polls and download, without a line written by hand."""
    document = await fetched(scene.url, imported)
    settings = imported / "settings.yml"
    settings.write_text("post_hooks: []\n", encoding="utf-8")
    output = await run(
        *("openapi-python-client", "generate", "--path", str(document), "--meta", "none"),
        *("--output-path", str(imported / "generated"), "--config", str(settings)),
        "--fail-on-warning",
        cwd=imported,
    )
    assert "WARNING" not in output.upper()

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"generated.{name}")

    client: Any = module("client").AuthenticatedClient(base_url=scene.url, token=scene.token)
    async with client:
        await export(client, scene, module)


async def export(client: Any, scene: Scene, module: Callable[[str], Any]) -> None:
    *_, session, _, _, mailbox, _ = scene.export.split("/")
    kickoff: Any = module("api.mailboxes.export_mailbox_to_pst")
    options = module("models.pst_options").PstOptions(content_keyword="invoice")
    job = await kickoff.asyncio(
        "8", session, mailbox, client=client, body=options, prefer="respond-async"
    )
    get: Any = module("api.jobs.get_export")
    while job.status.value == "Running":
        job = await get.asyncio("8", job.id, client=client, prefer="wait=10")
    assert (job.status.value, job.result.format_, job.result.size) == ("Success", "Pst", SIZE)
    file = await module("api.jobs.download_export").asyncio("8", job.id, client=client)
    assert hashlib.sha256(file.payload.read()).hexdigest() == expected_sha256(SIZE, Kind.PST)
    assert job.result.sha256 == expected_sha256(SIZE, Kind.PST)
    listed = await module("api.jobs.list_exports").asyncio("8", client=client)
    assert [each.id for each in listed.results] == [job.id]
    deleted: Any = await module("api.jobs.delete_export").asyncio_detailed(
        "8", job.id, client=client
    )
    assert deleted.status_code == 204
    problem = await get.asyncio("8", job.id, client=client)
    assert problem.type_.value == "urn:vb365-async:problem:job-deleted"


@pytest.mark.timeout(300)  # two programs of many requests, on a machine that may be busy
async def test_schemathesis_finds_nothing(scene: Scene, tmp_path: Path) -> None:
    """Every response to valid and invalid requests for a job that has ended is described: status,
    type, fields, body.
    """
    document = await fetched(scene.url, tmp_path)
    described = json.loads(document.read_text(encoding="utf-8"))
    job = await exported(scene)
    # a path with another version than a number belongs to VB365
    (tmp_path / "schemathesis.toml").write_text(
        f'[parameters]\n"path.version" = "8"\n"path.id" = "{job}"\n', encoding="utf-8"
    )
    for methods in (("GET", "POST"), ("DELETE",)):
        names = [each["operationId"] for each in operations(described, methods)]
        output = await run(
            *("schemathesis", "run", str(document), "--url", scene.url, "--no-color"),
            *("--header", f"Authorization: Bearer {scene.token}", "--max-examples", "10"),
            *("--seed", "1", "--phases", "examples,coverage,fuzzing"),
            *(part for name in names for part in ("--include-operation-id", name)),
            cwd=tmp_path,
            limit=140,
        )
        assert re.search(r"([1-9]\d+) generated, \1 passed", output), output


async def exported(scene: Scene) -> str:
    """Export a mailbox, and return the id of the job, which has ended."""
    fields = {"Authorization": f"Bearer {scene.token}", "Prefer": "respond-async"}
    async with aiohttp.ClientSession(headers=fields, raise_for_status=True) as http:
        async with http.post(scene.url + scene.export, json={}) as response:
            location = response.headers["Location"]
        document = {"status": "Running"}
        while document["status"] == "Running":
            async with http.get(location, headers={"Prefer": "wait=20"}) as response:
                document = await response.json()
    assert document["status"] == "Success"
    return document["id"]


def operations(document: dict[str, Any], methods: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Those on jobs."""
    for item in document["paths"].values():
        for method in methods:
            if "Jobs" in item.get(method.lower(), {}).get("tags", ()):
                yield item[method.lower()]
