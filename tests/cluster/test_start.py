"""What a replica refuses to start with, and where replicas keep their files (CONTRACT §18)."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet

from tests.cluster.conftest import MakeScene
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
