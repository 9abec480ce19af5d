"""Rescued exports over replicas: the retry reaches another one (CONTRACT §14, §18)."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import aiohttp

from tests.cluster.conftest import LIMIT, MakeScene, Scene
from tests.support.redis_server import RedisServer

RESCUE = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__GRACE": "2s"}


def check(scene: Scene, response: tuple[int, Any]) -> None:
    status, content = response
    assert status == 200, content
    assert hashlib.sha256(content).hexdigest() == scene.simulator.content(scene.path).sha256()


async def joined(scene: Scene, count: int) -> None:
    """Wait until so many requests have joined the only job."""
    async with asyncio.timeout(LIMIT):
        while True:
            _, document = await scene.b.ask("GET", "/v8/_async/exports")
            jobs = document["results"]
            if jobs and jobs[0]["joined"] == count:
                return
            await asyncio.sleep(0.1)


async def test_14_a_retry_on_another_replica_joins_the_export(make_scene: MakeScene) -> None:
    scene = await make_scene(**RESCUE)
    scene.simulator.fault(path=scene.path, method="POST", hold=True, count=1)
    first = asyncio.create_task(scene.a.ask("POST", scene.path))
    await scene.simulator.until(lambda: scene.simulator.held > 0)
    second = asyncio.create_task(scene.b.ask("POST", scene.path))
    await joined(scene, 1)
    first.cancel()
    scene.simulator.release()
    check(scene, await asyncio.wait_for(second, LIMIT))
    assert sum(scene.simulator.generations.values()) == 1


async def test_14_identical_posts_on_two_replicas_are_one_job(make_scene: MakeScene) -> None:
    scene = await make_scene(**RESCUE)
    scene.simulator.fault(path=scene.path, method="POST", hold=True, count=1)
    requests = [asyncio.create_task(one.ask("POST", scene.path)) for one in (scene.a, scene.b)]
    await joined(scene, 1)
    scene.simulator.release()
    for each in requests:
        check(scene, await asyncio.wait_for(each, LIMIT))
    assert sum(scene.simulator.generations.values()) == 1


async def test_14_after_the_loss_of_a_replica_the_retry_gets_the_file(
    make_scene: MakeScene,
) -> None:
    scene = await make_scene(**RESCUE)
    scene.simulator.fault(path=scene.path, method="POST", stall_at=4_000_000, count=1)
    first = asyncio.create_task(scene.a.ask("POST", scene.path))
    await scene.simulator.until(
        lambda: (
            len(scene.simulator.deliveries) > 0 and scene.simulator.deliveries[-1].sent >= 4_000_000
        )
    )
    await scene.proxies[0].kill()
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                response = await scene.b.ask("POST", scene.path)
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)
                continue
            break
    check(scene, response)
    await asyncio.gather(first, return_exceptions=True)


async def test_14_with_the_job_store_away_exports_are_relayed(
    make_scene: MakeScene, own_server: RedisServer
) -> None:
    """§14: never refuse what VB365 would have served."""
    scene = await make_scene(own_server, **RESCUE)
    own_server.stop()
    check(scene, await asyncio.wait_for(scene.a.ask("POST", scene.path), LIMIT))
