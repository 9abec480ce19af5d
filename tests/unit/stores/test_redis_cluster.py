"""Replicas agree on what they share, and the settings of the store are checked (§18)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from proxy.ports import StoreUnavailable
from proxy.stores.redis_jobs import checks
from proxy.stores.redis_jobs.cluster import FORMAT, Identity, WrongCluster
from proxy.stores.redis_jobs.store import RedisJobs
from tests.support.fakes import new_job
from tests.support.redis_server import RedisServer

ONE = Identity(secrets=frozenset({"one"}), artifacts="s3://bucket")
BOTH = replace(ONE, secrets=frozenset({"one", "two"}))
TWO = replace(ONE, secrets=frozenset({"two"}))
NONE = replace(ONE, secrets=frozenset())


@pytest.fixture
async def stores(server: RedisServer) -> AsyncIterator[list[RedisJobs]]:
    url = f"{server.url}?prefix={uuid4()}"
    opened = [await RedisJobs.open(url) for _ in range(3)]
    yield opened
    for store in opened:
        await store.close()


async def test_replicas_with_one_identity_share_a_prefix(stores: list[RedisJobs]) -> None:
    for store in stores:
        await store.join(ONE)
    await stores[0].join(ONE)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (ONE, TWO, "have another secrets.key"),
        (ONE, NONE, "have another secrets.key"),
        (NONE, ONE, "have no secrets.key"),
        (ONE, replace(ONE, artifacts="file"), "whose files are in s3://bucket"),
    ],
)
async def test_another_identity_is_refused_and_records_are_untouched(
    stores: list[RedisJobs], first: Identity, second: Identity, reason: str
) -> None:
    a, b, c = stores
    await a.join(first)
    job = await a.add(new_job(), b"")
    with pytest.raises(WrongCluster, match=reason):
        await b.join(second)
    assert await a.list() == [job]
    await c.join(first)


async def test_keys_are_rotated_by_way_of_both(stores: list[RedisJobs]) -> None:
    a, b, c = stores
    await a.join(ONE)
    await b.join(BOTH)
    await c.join(TWO)
    with pytest.raises(WrongCluster):
        await a.join(ONE)


async def test_the_fix_for_setting_a_key_works(stores: list[RedisJobs]) -> None:
    a, b, c = stores
    await a.join(NONE)
    with pytest.raises(WrongCluster) as caught:
        await b.join(ONE)
    command = str(caught.value).rpartition("the field with ")[2]
    await a._connections.command(*command.split(" "))
    await b.join(ONE)
    with pytest.raises(WrongCluster):
        await c.join(NONE)


async def test_another_format_is_refused(stores: list[RedisJobs]) -> None:
    a, b, _ = stores
    await a.join(ONE)
    await a._connections.command("HSET", f"{a._prefix}cluster", "format", "99")
    with pytest.raises(WrongCluster, match=f"format 99, and this version writes {FORMAT}"):
        await b.join(ONE)


async def test_all_replicas_have_the_owner_key_of_the_first(stores: list[RedisJobs]) -> None:
    """§9: set once."""
    keys = await asyncio.gather(*(store.owner_key() for store in stores for _ in range(5)))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32


async def test_clusters_with_different_prefixes_share_nothing(server: RedisServer) -> None:
    a, b = [await RedisJobs.open(f"{server.url}?prefix={name}") for name in ("a", "a2")]
    job = await a.add(new_job(key="k"), b"body")
    assert await b.get(job.id) is None
    assert await b.find("alice", "k") is None
    assert await b.list() == []
    assert await a.owner_key() != await b.owner_key()
    for store in (a, b):
        await store.remove(job)
        await store.close()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, []),
        ({"maxmemory-policy": "allkeys-lru"}, ["may drop jobs"]),
        ({"maxmemory-policy": "volatile-ttl"}, ["may drop the leases"]),
        ({"appendfsync": "no"}, ["appendfsync is no"]),
        ({"appendonly": "no"}, ["in memory only"]),
        ({"appendonly": "no", "save": "60 1"}, ["writes snapshots only"]),
    ],
)
async def test_settings_that_put_jobs_at_risk_are_named_with_the_fix(
    server: RedisServer, stores: list[RedisJobs], options: dict[str, str], found: list[str]
) -> None:
    normal = {"maxmemory-policy": "noeviction", "appendfsync": "everysec", "appendonly": "yes"}
    command = stores[0]._connections.command
    try:
        for name, value in options.items():
            await command("CONFIG", "SET", name, value)
        notes = await stores[0].notes()
    finally:
        for name, value in (normal | {"save": ""}).items():
            await command("CONFIG", "SET", name, value)
    assert len(notes) == len(found)
    assert all(part in note for part, note in zip(found, notes, strict=True))
    assert all("Set " in note for note in notes)


@pytest.mark.parametrize(("shift", "word"), [(-60.0, "behind"), (60.0, "ahead of")])
async def test_a_clock_that_differs_is_noted(
    stores: list[RedisJobs], monkeypatch: pytest.MonkeyPatch, shift: float, word: str
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    (note,) = await stores[0].notes()
    assert f"60 s {word} that of the job store" in note


async def test_settings_that_may_not_be_read_are_not_guessed(
    server: RedisServer, stores: list[RedisJobs]
) -> None:
    """Managed services hide CONFIG."""
    rules = ("on", ">pw", "~*", "&*", "+@all", "-config")
    await stores[0]._connections.command("ACL", "SETUSER", "proxy", *rules)
    limited = await RedisJobs.open(server.url.replace("unix://", "unix://proxy:pw@"))
    assert await limited.notes() == []
    await limited.close()


@pytest.mark.parametrize("login", ["proxy:wrong-secret@", ":wrong-secret@"])
async def test_wrong_credentials_are_refused_and_not_shown(server: RedisServer, login: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await RedisJobs.open(server.url.replace("unix://", f"unix://{login}"))
    assert "secret" not in str(caught.value)


async def test_a_user_needs_no_more_than_the_keys_and_the_channel_of_the_prefix(
    server: RedisServer, stores: list[RedisJobs]
) -> None:
    rules = (
        "on",
        ">pw",
        "resetkeys",
        "~mine:*",
        "resetchannels",
        "&mine:*",
        "+@all",
        "-@dangerous",
    )
    await stores[0]._connections.command("ACL", "SETUSER", "limited", *rules, "+info")
    url = server.url.replace("unix://", "unix://limited:pw@")
    store = await RedisJobs.open(f"{url}?prefix=mine")
    async with asyncio.timeout(20):
        await store._feed.connected.wait()
    await store.join(ONE)
    job = await store.add(new_job(key="k"), b"")
    assert await store.list() == [job]
    assert await store.remove(job)
    await store.close()


async def test_an_old_server_is_refused(
    server: RedisServer, stores: list[RedisJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def info(*command: str) -> bytes:
        return b"# Server\r\nredis_version:6.0.16\r\n"

    connections = stores[0]._connections
    monkeypatch.setattr(connections, "command", info)
    with pytest.raises(StoreUnavailable, match=r"Redis 6\.0\.16: use Redis 6\.2 or later"):
        await checks.version(connections)


async def test_a_store_that_cannot_be_reached_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await RedisJobs.open(f"unix://{tmp_path}/nobody.sock")
