"""Every replica shows the operator all jobs, and any of them takes his acts (CONTRACT §16, §18)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.cluster.conftest import MakeScene, Scene
from tests.cluster.test_workers import SIZE, WORKERS, crew
from tests.support.wire import ask

#: Seconds within which a call on one replica takes effect on another.
SOON = 1.0


async def got(scene: Scene, number: int, path: str) -> Any:
    response = await ask(scene.proxies[number].admin_url, "GET", path)
    assert response.status == 200, response
    return response.json()


async def row(scene: Scene, number: int, job: str, holds: Any) -> Any:
    """The row of the job on a replica, once the condition holds, which is soon."""
    async with asyncio.timeout(10 * SOON):  # what this machine takes
        while True:
            found = await got(scene, number, f"/api/jobs/{job}")
            if holds(found):
                return found
            await asyncio.sleep(0.05)


async def test_both_replicas_show_the_same_jobs_and_each_other(make_scene: MakeScene) -> None:
    scene = await make_scene(LOG__LEVEL="info")
    job = await scene.generating()
    rows = []
    for number in range(2):
        await row(scene, number, job, lambda found: found["phase"] == "Generating")
        page = await got(scene, number, "/api/jobs")
        assert page["total"] == 1
        rows.append(page["results"][0])
        status = await got(scene, number, "/api/status")
        assert status["jobs"]["running"] == 1
        replicas = {each["id"]: each["running"] for each in status["replicas"]}
        assert len(replicas) == 2
        assert status["replica"] in replicas
        assert all(each["lastSeen"] for each in status["replicas"])
    assert rows[0] == rows[1]
    assert rows[0]["replica"] == (await got(scene, 0, "/api/status"))["replica"]
    scene.simulator.release()
    await scene.whole(scene.b, job)
    for number in range(2):
        found = await row(scene, number, job, lambda found: found["delivered"]["count"])
        assert found["status"] == "Success"
    assert (await got(scene, 0, "/api/history"))["replica"] == rows[0]["replica"]


async def test_a_stream_shows_what_another_replica_does(make_scene: MakeScene) -> None:
    """And an operator's cancel there takes effect here."""
    scene = await make_scene(LOG__LEVEL="info")
    async with scene.http.get(f"{scene.proxies[1].admin_url}/api/events") as stream:
        job = await scene.generating()
        await _event(stream, lambda found: found.get("phase") == "Generating")
        target = f"/api/jobs/{job}/cancel"
        fields = {"X-VB365-Admin": "1"}
        response = await ask(scene.proxies[1].admin_url, "POST", target, fields, b"")
        assert response.status == 202
        shown = await _event(stream, lambda found: found.get("status") == "Cancelled")
        assert shown["id"] == job
    assert (await scene.a.finished(job))["status"] == "Cancelled"
    scene.simulator.release()


async def _event(stream: Any, holds: Any) -> Any:
    async with asyncio.timeout(20):
        async for line in stream.content:
            if line.startswith(b"data: ") and holds(found := json.loads(line[6:])):
                return found
    raise AssertionError("the stream has ended")


async def test_the_api_is_that_of_all_workers(tmp_path: Path) -> None:
    """Whichever of them a client is connected to; one process listens for the operator."""
    async with crew(tmp_path) as proxy:
        admin = proxy.proxy.admin_url
        jobs = {(await proxy.kick_off()).rpartition("/")[2] for _ in range(2 * WORKERS)}
        for job in jobs:
            status = f"/v8/_async/exports/{job}"
            assert (await proxy.finished(status))["status"] == "Success"
            assert len((await proxy.ask("GET", f"{status}/result")).body) == SIZE
            assert (await proxy.ask("GET", "/v8/Organizations")).status == 200
        relayed, served = len(jobs), len(jobs) * SIZE
        async with asyncio.timeout(20):  # the other workers report each second
            while True:
                page = (await ask(admin, "GET", "/api/jobs")).json()
                minutes = (await ask(admin, "GET", "/api/history")).json()["results"]
                if (
                    {row["id"] for row in page["results"] if row["delivered"]["whole"]} == jobs
                    and sum(each["servedBytes"] for each in minutes) == served
                    and sum(each["requests"].get("200", 0) for each in minutes) >= relayed + 12
                ):
                    break
                await asyncio.sleep(0.1)
        assert (await ask(admin, "GET", "/api/status")).json()["replicas"] == []
