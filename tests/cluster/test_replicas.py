"""Any replica answers any call on any job as its owner would (CONTRACT §8, §18)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import MakeScene, Scene

#: Seconds within which a call on one replica takes effect on another.
SOON = 1.0


async def test_a_job_is_the_same_on_every_replica(make_scene: MakeScene) -> None:
    """§18: document, ETag, digest and Last-Modified; §6: any replica serves any range."""
    scene = await make_scene()
    job = await scene.a.kick_off(scene.path)
    await scene.whole(scene.b, job)
    responses = []
    for caller in (scene.a, scene.b):
        target = f"{caller.proxy.url}/v8/_async/exports/{job}"
        async with scene.http.get(target, headers=caller.token) as response:
            text = (await response.text()).replace(caller.proxy.url, "")
            responses.append([text, response.headers["ETag"]])
        fields = caller.token | {"Range": "bytes=10-19"}
        async with scene.http.get(f"{target}/result", headers=fields) as response:
            names = ("ETag", "Last-Modified", "Repr-Digest", "Content-Range", "Content-Disposition")
            responses[-1] += [response.status, await response.read()]
            responses[-1] += [response.headers[name] for name in names]
    assert responses[0] == responses[1]
    assert responses[0][2] == 206


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_a_cancel_on_another_replica_takes_effect_at_once(
    make_scene: MakeScene, tmp_path: Path, how: str
) -> None:
    """§18: the transfer is closed and its bytes are removed within a second."""
    scene = await make_scene()
    job = await scene.transferring()
    assert await asyncio.to_thread(_files, tmp_path, job)
    method, target = ("POST", "/cancel") if how == "cancel" else ("DELETE", "")
    status, _ = await scene.b.ask(method, f"/v8/_async/exports/{job}{target}")
    started = time.monotonic()
    assert status == (202 if how == "cancel" else 204)
    while await asyncio.to_thread(_files, tmp_path, job):
        assert time.monotonic() - started < SOON
        await asyncio.sleep(0.02)
    if how == "cancel":
        assert (await scene.a.finished(job))["status"] == "Cancelled"
    else:
        assert (await scene.a.status(job))[0] == 404
    scene.simulator.release()


def _files(directory: Path, job: str) -> list[Path]:
    return list((directory / "data" / "artifacts").rglob(f"{job}*"))


async def test_a_long_poll_sees_a_change_made_by_another_replica(make_scene: MakeScene) -> None:
    """§4: the response comes when the job ends, not after `wait`."""
    scene = await make_scene()
    job = await scene.generating()
    target = f"/v8/_async/exports/{job}/result"
    polling = asyncio.create_task(scene.b.ask("GET", target, Prefer="wait=30"))
    scene.simulator.release()
    async with asyncio.timeout(20):
        status, _ = await polling
    assert status == 200


async def test_a_refreshed_token_is_the_same_caller_everywhere(make_scene: MakeScene) -> None:
    scene = await make_scene()
    job = await scene.a.kick_off(scene.path)
    scene.b.token = scene.simulator.login()
    await scene.whole(scene.b, job)


async def test_a_key_that_is_raced_on_two_replicas_starts_one_export(
    make_scene: MakeScene,
) -> None:
    """§8: also within the grace of the first."""
    scene = await make_scene()
    fields = {"Prefer": "respond-async", "Idempotency_Key": "k"}
    responses = await asyncio.gather(
        *(caller.ask("POST", scene.path, **fields) for caller in (scene.a, scene.b) * 3)
    )
    assert {status for status, _ in responses} == {202}
    assert len({document["id"] for _, document in responses}) == 1
    await scene.whole(scene.a, responses[0][1]["id"])
    assert sum(scene.simulator.generations.values()) == 1


async def test_a_refusal_is_everyones_answer(make_scene: MakeScene) -> None:
    """§3.7: no replica keeps, or shows, a job that another one drops."""
    scene = await make_scene(EXPORTS__GRACE="15s")
    scene.simulator.fault(path=scene.path, method="POST", hold=True, outlook_missing=True)
    fields = {"Prefer": "respond-async", "Idempotency_Key": "k"}
    first = asyncio.create_task(scene.a.ask("POST", scene.path, **fields))
    await scene.simulator.until(lambda: scene.simulator.held > 0)
    second = asyncio.create_task(scene.b.ask("POST", scene.path, **fields))
    await asyncio.sleep(0.5)  # the second one waits, or sends its own POST afterwards
    while not (first.done() and second.done()):
        scene.simulator.release()
        await asyncio.sleep(0.05)
    assert [(await each)[0] for each in (first, second)] == [500, 500]
    for caller in (scene.a, scene.b):
        assert (await caller.ask("GET", "/v8/_async/exports"))[1]["results"] == []


async def test_a_job_that_another_replica_lists_is_not_dropped(make_scene: MakeScene) -> None:
    scene = await make_scene(EXPORTS__GRACE="15s")
    scene.simulator.fault(path=scene.path, method="POST", hold=True, outlook_missing=True)
    first = asyncio.create_task(scene.a.ask("POST", scene.path, Prefer="respond-async"))
    await scene.simulator.until(lambda: scene.simulator.held > 0)
    listed = (await scene.b.ask("GET", "/v8/_async/exports"))[1]["results"]
    scene.simulator.release()
    status, document = await first
    assert (status, [each["id"] for each in listed]) == (202, [document["id"]])
    assert (await scene.b.finished(document["id"]))["status"] == "Failed"


async def test_max_running_holds_over_both(make_scene: MakeScene) -> None:
    scene = await make_scene(EXPORTS__MAX_RUNNING="1")
    first = await scene.generating()
    second = await scene.b.kick_off(scene.path)
    assert (await scene.a.status(second))[1]["phase"] == "Queued"
    assert len(scene.simulator.deliveries) == 1
    scene.simulator.release()
    await scene.whole(scene.b, first)
    await scene.whole(scene.a, second)


async def test_without_the_job_store_calls_fail_fast_and_the_rest_passes(
    make_scene: MakeScene, own_server: object
) -> None:
    """§18: 503 within 2 s; a running transfer goes on and is recorded later."""
    scene: Scene = await make_scene(
        own_server, CLUSTER__LEASE="30s", CLUSTER__HEARTBEAT="5s", LOG__LEVEL="info"
    )
    job = await scene.generating()
    scene.store.pause()
    try:
        started = time.monotonic()
        statuses = await asyncio.gather(
            scene.a.status(job), scene.b.ask("POST", scene.path, Prefer="respond-async")
        )
        assert [status for status, _ in statuses] == [503, 503]
        assert time.monotonic() - started < 3  # 2 s, and what this machine takes
        assert (await scene.a.ask("GET", "/v8/Organizations"))[0] == 200
        async with scene.http.get(f"{scene.proxies[0].admin_url}/readyz") as response:
            assert response.status == 503
            assert not (await response.json())["checks"]["jobs"]["ok"]
        scene.simulator.release()
        await scene.simulator.until(lambda: scene.simulator.deliveries[-1].sent >= 1)
    finally:
        scene.store.go_on()
    await scene.whole(scene.b, job)
    assert sum(scene.simulator.generations.values()) == 1
