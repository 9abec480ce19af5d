"""No crash loses a notification: the record is the outbox (CONTRACT §17)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from aiohttp import web

from proxy.simulator import Simulator, SimulatorSettings
from tests.support.process import Caller, ProxyProcess
from tests.support.receiver import SECRET, receiving

TYPES = ("export.accepted", "export.succeeded")


async def test_17_a_kill_between_the_change_and_its_delivery_loses_nothing(tmp_path: Path) -> None:
    """The receiver has not responded when the proxy is killed. It gets the same ids afterwards."""
    simulator = Simulator(SimulatorSettings(size=100_000))
    await simulator.start()
    async with receiving() as receiver, aiohttp.ClientSession() as http:
        hold = asyncio.Event()

        async def silent(request: web.Request) -> web.StreamResponse:
            await hold.wait()
            return web.Response()

        receiver.respond = silent
        settings = {"WEBHOOKS__URLS": receiver.url, "WEBHOOKS__SECRETS": SECRET}
        proxy = ProxyProcess(tmp_path / "data", simulator.url, descriptors=None, **settings)
        try:
            await proxy.start()
            caller = Caller(proxy, http, simulator.login())
            session = simulator.open_session()
            path = next(p for p in simulator.export_paths(session) if p.endswith("exportToPst"))
            job = await caller.kick_off(path)
            assert (await caller.finished(job))["status"] == "Success"
            (before,) = await receiver.count(1)
            await proxy.kill()
            hold.set()
            receiver.always(204)
            await proxy.start()
            await receiver.until(lambda posts: {post.type for post in posts[1:]} == set(TYPES))
            after = receiver.posts[1:]
            assert {post.json["data"]["id"] for post in after} == {job}
            assert before.id in {post.id for post in after}
            await proxy.kill()
            await proxy.start()
            assert (await caller.status(job))[0] == 200
            assert len({post.id for post in receiver.posts}) == 2, "delivered, and not again"
        finally:
            await proxy.kill()
            await simulator.stop()
