"""What a replica refuses to start with, and where replicas keep their files (CONTRACT §18)."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from redis.asyncio import Redis

from proxy.config.loading import load
from proxy.config.settings import Settings
from proxy.parts.backends import open_stores
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.store import ObjectArtifacts
from tests.cluster.conftest import MakeScene
from tests.support.artifacts import new_id
from tests.support.process import DidNotStart, ProxyProcess
from tests.support.redis_server import RedisServer

#: Nobody listens there.
UPSTREAM = "http://127.0.0.1:9"


async def refused(proxy: ProxyProcess) -> str:
    """Why it does not start."""
    with pytest.raises(DidNotStart) as caught:
        await proxy.start()
    await proxy.kill()
    return str(caught.value)


async def test_a_job_store_that_is_away_is_named(tmp_path: Path) -> None:
    proxy = ProxyProcess(tmp_path / "data", UPSTREAM, STORAGE__JOBS="redis://127.0.0.1:1/0")
    assert "127.0.0.1:1" in await refused(proxy)


async def test_a_job_store_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    proxy = ProxyProcess(tmp_path / "data", UPSTREAM, STORAGE__JOBS="redis://h/0?prefx=a")
    assert "storage.jobs" in await refused(proxy)


@pytest.mark.parametrize("other", ["volume", "key"])
async def test_a_replica_that_differs_is_refused(
    tmp_path: Path, valkey_server: RedisServer, other: str
) -> None:
    """The records of the first one stay as they are; it goes on."""
    url = f"{valkey_server.url}?prefix={uuid4()}"
    first = ProxyProcess(tmp_path / "data", UPSTREAM, STORAGE__JOBS=url)
    await first.start()
    try:
        data = tmp_path / ("other" if other == "volume" else "data")
        more = {} if other == "volume" else {"SECRETS__KEY": Fernet.generate_key().decode()}
        second = ProxyProcess(data, UPSTREAM, descriptors=None, STORAGE__JOBS=url, **more)
        why = await refused(second)
        assert ("storage.dir" if other == "volume" else "secrets.key") in why
        third = ProxyProcess(tmp_path / "data", UPSTREAM, STORAGE__JOBS=url)
        await third.start()
        await third.kill()
    finally:
        await first.kill()


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    """The URL of a place in a bucket, with its credentials in the environment."""
    options = f"endpoint={s3_endpoint}&allow_http=true&path_style=true&region=us-east-1"
    return f"s3://tests/{uuid4()}?{options}"


async def test_replicas_share_a_bucket(make_scene: MakeScene, bucket: str) -> None:
    """§18: and a killed one's transfer is continued from it."""
    scene = await make_scene(STORAGE__ARTIFACTS=bucket)
    done = await scene.a.kick_off(scene.path)
    await scene.whole(scene.b, done)
    job = await scene.transferring()
    await scene.proxies[0].kill()
    await scene.whole(scene.b, job)
    assert (await scene.b.ask("DELETE", f"/v8/_async/exports/{job}"))[0] == 204


async def test_one_process_may_keep_its_files_in_a_bucket(
    tmp_path: Path, make_scene: MakeScene, bucket: str
) -> None:
    """§15: storage.jobs = disk beside storage.artifacts = a bucket."""
    scene = await make_scene()
    for replica in scene.proxies:
        await replica.kill()
    settings = {"STORAGE__ARTIFACTS": bucket, "EXPORTS__GRACE": "0s"}
    proxy = ProxyProcess(tmp_path / "one", scene.simulator.url, descriptors=None, **settings)
    await proxy.start()
    try:
        scene.a.proxy = proxy
        job = await scene.a.kick_off(scene.path)
        await scene.whole(scene.a, job)
        assert not (tmp_path / "one" / "artifacts").exists()
    finally:
        await proxy.kill()


async def test_a_bucket_that_is_away_is_named(tmp_path: Path) -> None:
    url = "s3://tests/a?endpoint=http://127.0.0.1:1&allow_http=true&region=us-east-1"
    proxy = ProxyProcess(tmp_path / "data", UPSTREAM, STORAGE__ARTIFACTS=url)
    assert "storage.artifacts: s3://tests/a" in await refused(proxy)


async def taken_away(tmp_path: Path, bucket: str | None) -> Callable[[], Awaitable[None]]:
    """Empty the bucket, or take the volume away. Return what brings the volume back."""
    if bucket is None:
        volume = tmp_path / "data/artifacts"
        volume.rename(tmp_path / "elsewhere")

        async def mount() -> None:
            await asyncio.to_thread(shutil.rmtree, volume)
            (tmp_path / "elsewhere").rename(volume)

        return mount
    store = await ObjectArtifacts.at(Location.parse(bucket))
    await store.bucket.remove([*await store.bucket.sizes("artifacts"), "store-id"])
    await store.close()

    async def nothing() -> None:
        """The bucket stays empty."""

    return nothing


@pytest.mark.parametrize("place", ["volume", "bucket"])
async def test_replicas_without_their_files_do_not_take_them_for_lost(
    make_scene: MakeScene, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    """§15: they do not start before the files are back, or an operator gives them up."""
    bucket = request.getfixturevalue("bucket") if place == "bucket" else None
    scene = await make_scene(**({} if bucket is None else {"STORAGE__ARTIFACTS": bucket}))
    job = await scene.a.kick_off(scene.path)
    await scene.whole(scene.b, job)
    for proxy in scene.proxies:
        await proxy.kill()
    bring_back = await taken_away(tmp_path, bucket)
    first, second = scene.proxies
    why = await refused(first)
    assert "has no store-id" in why
    if bucket is None:
        await bring_back()
    else:
        found = re.search(r"run `(HSET .*)` in the job store", why)
        assert found is not None
        client: Any = Redis.from_url(scene.store.url)
        await client.execute_command(*found[1].split())
        await client.aclose()
    await first.start()
    await second.start()
    if bucket is None:
        await scene.whole(scene.b, job)
    else:
        assert (await scene.b.status(job))[1]["result"]["state"] == "Deleted"
    await scene.whole(scene.b, await scene.a.kick_off(scene.path))


async def test_replicas_of_an_earlier_version_keep_the_id_of_their_volume(
    tmp_path: Path, valkey_server: RedisServer
) -> None:
    """It was beside the files; the store knows it."""
    id, url = str(uuid4()), f"{valkey_server.url}?prefix={uuid4()}"  # noqa: A001
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "volume-id").write_text(f"{id}\n")
    proxy = ProxyProcess(data, UPSTREAM, STORAGE__JOBS=url)
    await proxy.start()
    await proxy.kill()
    assert (data / "artifacts/store-id").read_text() == f"{id}\n"


def settings_of(bucket: str, jobs: str) -> Settings:
    storage = {"STORAGE__JOBS": jobs, "STORAGE__ARTIFACTS": bucket, "UPSTREAM__URL": UPSTREAM}
    return load(None, {}, {f"VB365_PROXY_{name}": value for name, value in storage.items()})


@pytest.mark.parametrize("given_up", [False, True], ids=["nothing promised", "given up"])
async def test_replicas_that_start_at_once_agree_on_the_id_of_an_emptied_bucket(
    bucket: str, valkey_server: RedisServer, *, given_up: bool
) -> None:
    """For one with another id no file would be missing: jobs would wait for it for ever. So it is
    for one that runs while the bucket is emptied.
    """
    prefix = str(uuid4())
    settings = settings_of(bucket, f"{valkey_server.url}?prefix={prefix}")
    async with AsyncExitStack() as closing:
        opened = [await open_stores(settings, closing, time.time)]
        await (await taken_away(Path(), bucket))()
        if given_up:
            client: Any = Redis.from_url(valkey_server.url)
            await client.execute_command(
                *("HSET", f"{prefix}:cluster", "files", "none", "artifacts", "none")
            )
            await client.aclose()
            opened.clear()  # all of them are started again then
        starts = (open_stores(settings, closing, time.time) for _ in range(3))
        opened += await asyncio.gather(*starts)
        for stores in opened:
            assert await stores.artifacts.resume(new_id(), 1) is None


async def test_a_job_store_without_data_is_never_told_another_id_than_that_of_the_bucket(
    bucket: str, valkey_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that starts at the same moment would refuse the bucket."""
    prefixes = [str(uuid4()), str(uuid4())]
    client: Any = Redis.from_url(valkey_server.url)
    seen = []
    identify = ObjectArtifacts.identify

    async def looking(store: ObjectArtifacts, offered: str) -> str:
        seen.append(await client.hget(f"{prefixes[-1]}:cluster", "files"))
        return await identify(store, offered)

    monkeypatch.setattr(ObjectArtifacts, "identify", looking)
    async with AsyncExitStack() as closing:
        for prefix in prefixes:
            settings = settings_of(bucket, f"{valkey_server.url}?prefix={prefix}")
            await open_stores(settings, closing, time.time)
    assert seen == [None, None]
    ids = {await client.hget(f"{prefix}:cluster", "files") for prefix in prefixes}
    assert len(ids) == 1
    await client.aclose()


async def test_a_refused_first_start_changes_nothing(make_scene: MakeScene, bucket: str) -> None:
    """The first start of this version accepts a bucket that has some of the files: one may have
    been lost before. It also does so after a start with the wrong bucket.
    """
    scene = await make_scene(STORAGE__ARTIFACTS=bucket)
    jobs = [await scene.a.kick_off(scene.path) for _ in range(2)]
    for job in jobs:
        await scene.whole(scene.b, job)
    for proxy in scene.proxies:
        await proxy.kill()
    client: Any = Redis.from_url(scene.store.url)
    prefix = scene.url.rpartition("=")[2]
    assert await client.hdel(f"{prefix}:cluster", "files") == 1
    await client.aclose()
    store = await ObjectArtifacts.at(Location.parse(bucket))
    kept = {key: await store.bucket.read(key) for key in await store.bucket.sizes("artifacts")}
    await store.bucket.remove([*kept, "store-id"])
    assert "has no store-id" in await refused(scene.proxies[0])
    for key, content in kept.items():
        if jobs[0] in key and content is not None:
            await store.bucket.store(key, content)
    await store.close()
    await scene.proxies[0].start()
    await scene.whole(scene.a, jobs[0])
    assert (await scene.a.status(jobs[1]))[1]["result"]["state"] == "Deleted"
