"""A replica that dies, hangs or stops: another one takes its jobs over (CONTRACT §9, §10, §18)."""

from __future__ import annotations

import asyncio
import signal

import pytest
from cryptography.fernet import Fernet

from proxy.core.job import Phase
from proxy.stores.redis_jobs.store import RedisJobs
from tests.cluster.conftest import MakeScene, Scene

KEY = Fernet.generate_key().decode()


async def suspended(scene: Scene, job: str) -> None:
    """Return when the record says so, without a call that would resume the job."""
    store = await RedisJobs.open(scene.url)
    try:
        async with asyncio.timeout(40):
            while (found := await store.get(job)) is not None and (  # noqa: ASYNC110
                found.phase is not Phase.SUSPENDED
            ):
                await asyncio.sleep(0.1)
    finally:
        await store.close()


@pytest.mark.parametrize("when", ["generating", "transferring"])
async def test_a_killed_replica_leaves_its_job_to_its_owner(
    make_scene: MakeScene, when: str
) -> None:
    """§9: resumed by a call on the other one. §10: what is stored is continued."""
    scene = await make_scene()
    job = await getattr(scene, when)()
    await scene.proxies[0].kill()
    await suspended(scene, job)
    document = await scene.whole(scene.b, job)
    assert document["attempt"] == (2 if when == "generating" else 1)
    if when == "transferring":
        assert sum(scene.simulator.generations.values()) == 1
        assert scene.simulator.deliveries[-1].start > 0


@pytest.mark.parametrize("when", ["generating", "transferring"])
async def test_with_a_key_the_job_of_a_killed_replica_continues(
    make_scene: MakeScene, when: str
) -> None:
    """§9 `secrets.key`: nobody calls."""
    scene = await make_scene(SECRETS__KEY=KEY)
    job = await getattr(scene, when)()
    count = len(scene.simulator.deliveries)
    await scene.proxies[0].kill()
    await scene.simulator.until(lambda: len(scene.simulator.deliveries) > count, timeout=30)
    await scene.whole(scene.b, job)


@pytest.mark.parametrize("when", ["generating", "transferring"])
async def test_a_replica_that_hung_changes_nothing_when_it_continues(
    make_scene: MakeScene, when: str
) -> None:
    """§18: neither record nor byte."""
    scene = await make_scene()
    job = await getattr(scene, when)()
    scene.proxies[0].send_signal(signal.SIGSTOP)
    await suspended(scene, job)
    document = await scene.whole(scene.b, job)
    scene.proxies[0].send_signal(signal.SIGCONT)
    scene.simulator.release()
    again = await scene.whole(scene.a, job)
    assert again["eTag"] == document["eTag"]
    other = await scene.a.kick_off(scene.path)
    await scene.whole(scene.b, other)
    assert (await scene.b.status(job))[1]["eTag"] == document["eTag"]


async def test_a_short_hang_costs_nothing(make_scene: MakeScene) -> None:
    """§18: the lease has ended and nobody took the job: it goes on where it was."""
    scene = await make_scene()
    job = await scene.transferring()
    for proxy in scene.proxies:
        proxy.send_signal(signal.SIGSTOP)
    await asyncio.sleep(5)
    scene.proxies[0].send_signal(signal.SIGCONT)
    await asyncio.sleep(1.5)
    scene.proxies[1].send_signal(signal.SIGCONT)
    scene.simulator.release()
    document = await scene.whole(scene.b, job)
    assert document["attempt"] == 1
    assert sum(scene.simulator.generations.values()) == 1


async def test_a_replica_that_stops_hands_its_job_over(make_scene: MakeScene) -> None:
    """§15 SIGTERM: sealed credentials go with it, and the other one continues at once."""
    scene = await make_scene(SECRETS__KEY=KEY, CLUSTER__LEASE="60s", CLUSTER__HEARTBEAT="20s")
    job = await scene.transferring()
    count = len(scene.simulator.deliveries)
    assert await scene.proxies[0].stop() == 0
    await scene.simulator.until(lambda: len(scene.simulator.deliveries) > count, timeout=5)
    await scene.whole(scene.b, job)
    assert sum(scene.simulator.generations.values()) == 1


async def test_a_replica_that_starts_when_the_store_is_back_takes_no_job_from_one_that_lives(
    make_scene: MakeScene,
) -> None:
    """§18: the lease of the living one has ended, and it renews it a moment later."""
    scene = await make_scene(CLUSTER__HEARTBEAT="4s", CLUSTER__LEASE="8s")
    job = await scene.transferring()
    await scene.proxies[1].kill()
    scene.proxies[0].send_signal(signal.SIGSTOP)
    jobs = await RedisJobs.open(scene.url)
    async with asyncio.timeout(40):
        while await jobs.replicas():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        starting = asyncio.create_task(scene.proxies[1].start())
        while not await jobs.replicas():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        scene.proxies[0].send_signal(signal.SIGCONT)
        await starting
    await jobs.close()
    scene.simulator.release()
    await scene.whole(scene.b, job)
    assert len(scene.simulator.deliveries) == 1
