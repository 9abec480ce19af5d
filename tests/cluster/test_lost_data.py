"""The job store loses its data (CONTRACT §18): files keep their jobs, all others are gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.cluster.conftest import MakeScene, Scene
from tests.support.process import Caller
from tests.support.redis_server import RedisServer


async def until_status(caller: Caller, job: str, *wanted: int) -> None:
    """Wait until the status of the job is one of these."""
    async with asyncio.timeout(40):
        while (await caller.status(job))[0] not in wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_job_is_rebuilt_from_its_file_or_reported_as_gone(
    make_scene: MakeScene, own_server: RedisServer, tmp_path: Path
) -> None:
    """No replica is started again. New exports are accepted at once, from the same caller."""
    scene: Scene = await make_scene(own_server)
    done = await scene.a.kick_off(scene.path)
    before = str(await scene.whole(scene.a, done)).replace(scene.a.proxy.url, "")
    lost = [await scene.transferring(), await scene.generating(scene.b)]
    await asyncio.to_thread(own_server.stop)
    own_server.forget()
    await asyncio.to_thread(own_server.start)
    for caller in (scene.a, scene.b):
        await until_status(caller, done, 200)
        assert str(await scene.whole(caller, done)).replace(caller.proxy.url, "") == before
        for job in lost:
            await until_status(caller, job, 404)
    listed = (await scene.b.ask("GET", "/v8/_async/exports"))[1]["results"]
    assert [each["id"] for each in listed] == [done]
    scene.simulator.release()
    async with asyncio.timeout(40):
        while await asyncio.to_thread(jobs_with_files, tmp_path) != {done}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    again = await scene.b.kick_off(scene.path)
    await scene.whole(scene.a, again)


def jobs_with_files(place: Path) -> set[str]:
    files = (place / "data" / "artifacts").rglob("*.*")
    return {each.name[:36] for each in files if each.is_file()}
