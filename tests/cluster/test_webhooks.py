"""Webhooks hold over all replicas (CONTRACT §17, §18)."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web

from tests.cluster.conftest import MakeScene
from tests.support.receiver import SECRET, receiving

TYPES = {"export.accepted", "export.succeeded"}


async def test_each_message_comes_once_from_two_replicas(make_scene: MakeScene) -> None:
    """Both look for what is due; the one that moves the due moment tries."""
    async with receiving() as receiver:
        scene = await make_scene(WEBHOOKS__URLS=receiver.url, WEBHOOKS__SECRETS=SECRET)
        jobs = [await caller.kick_off(scene.path) for caller in (scene.a, scene.b) * 3]
        for job in jobs:
            await scene.whole(scene.a, job)
        await receiver.count(12)
        received = Counter((post.json["data"]["id"], post.type) for post in receiver.posts)
        assert received == Counter({(job, type_): 1 for job in jobs for type_ in TYPES})
        assert len({post.id for post in receiver.posts}) == 12


async def test_the_messages_of_a_lost_replica_are_delivered_by_another(
    make_scene: MakeScene,
) -> None:
    """At least once, with the same id."""
    async with receiving() as receiver:
        hold = asyncio.Event()

        async def silent(request: web.Request) -> web.StreamResponse:
            await hold.wait()
            return web.Response()

        receiver.respond = silent
        scene = await make_scene(WEBHOOKS__URLS=receiver.url, WEBHOOKS__SECRETS=SECRET)
        await scene.proxies[1].kill()
        job = await scene.a.kick_off(scene.path)
        await scene.whole(scene.a, job)
        (before,) = await receiver.count(1)
        await scene.proxies[0].kill()
        hold.set()
        receiver.always(204)
        await scene.proxies[1].start()
        async with asyncio.timeout(60):
            while {post.type for post in receiver.posts[1:]} != TYPES:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        after = receiver.posts[1:]
        assert {post.json["data"]["id"] for post in after} == {job}
        assert before.id in {post.id for post in after}


async def test_14_an_export_that_vb365_refuses_is_reported_by_no_replica(
    make_scene: MakeScene,
) -> None:
    """Nobody gets "accepted" for a rescued export whose record VB365's response removes."""
    async with receiving() as receiver:
        rescue = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__PREFLIGHT": "false"}
        hooks = {"WEBHOOKS__URLS": receiver.url, "WEBHOOKS__SECRETS": SECRET}
        scene = await make_scene(**rescue, **hooks)
        scene.simulator.fault(path=scene.path, hold=True, outlook_missing=True, count=1)
        refused = asyncio.create_task(scene.a.ask("POST", scene.path))
        await scene.simulator.until(lambda: scene.simulator.held > 0)
        another = scene.simulator.export_paths(scene.simulator.open_session())[0]
        job = await scene.b.kick_off(another)  # the replica looks for what is due
        await scene.b.finished(job)
        await receiver.count(2)
        scene.simulator.release()
        assert (await refused)[0] != 200
        assert {post.json["data"]["id"] for post in receiver.posts} == {job}
