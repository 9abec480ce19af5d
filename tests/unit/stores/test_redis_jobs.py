"""What the store in Redis keeps beside test_jobs.py and test_shared_jobs.py: failures of the server
and of the network, and its memory.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio.connection import AbstractConnection

from proxy.core.events import Answered, Assigned, Claimed, Failed, Finalizing, Shown, Succeeded
from proxy.core.job import FileFacts, Job
from proxy.core.retention import Stage
from proxy.core.transitions import advance
from proxy.jobs.record import Record
from proxy.ports import Bounds, SlotLimits, StoreUnavailable, Turn
from proxy.stores.redis_jobs import entries
from proxy.stores.redis_jobs import store as redis_store
from proxy.stores.redis_jobs.cluster import Identity, WrongCluster
from proxy.stores.redis_jobs.scripts import SCRIPTS, Script
from proxy.stores.redis_jobs.store import RedisJobs
from tests.support.byte_relay import ByteRelay, byte_relay
from tests.support.fakes import new_job
from tests.support.log_lines import logged
from tests.support.redis_server import REDIS, RedisServer, running, valkey
from tests.unit.stores.records import ERROR

SLOTS = SlotLimits(total=4, per_caller=0, hold=60)
BOUNDS = Bounds(per_caller=9, queued=9, records_per_caller=9, records=9, slots=SLOTS)
US = Identity(secrets=frozenset({"one"}), artifacts="s3://bucket")


@pytest.fixture(params=[pytest.param(valkey(), id="valkey"), pytest.param(REDIS, id="redis")])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """A server of the tests' own. The names of sockets are short: `tmp_path` would be too long."""
    with running(tmp_path_factory.mktemp("r"), request.param) as own:
        yield own


@asynccontextmanager
async def opened(url: str, lease: float = 60.0) -> AsyncIterator[RedisJobs]:
    store = await RedisJobs.open(url, lease=lease)
    try:
        await store.renew(running=0, promised=0)
        async with asyncio.timeout(20):
            await store._feed.connected.wait()
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisJobs]:
    async with opened(server.url) as own:
        yield own


@pytest.fixture
async def relay(server: RedisServer) -> AsyncIterator[ByteRelay]:
    directory = server.directory
    async with byte_relay(directory / "relay.sock", directory / "redis.sock") as own:
        yield own


@pytest.fixture
async def relayed(relay: ByteRelay) -> AsyncIterator[RedisJobs]:
    async with opened(f"unix://{relay.path}") as own:
        yield own


async def available(call: Callable[[], Awaitable[object]]) -> object:
    """The outcome of a call, repeated while the store is unavailable."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def claimed(store: RedisJobs, job: Job) -> Job:
    """The job with a slot."""
    new = advance(job, Assigned(store.replica), 1)
    assert await store.claim(job, new, SLOTS) is Turn.TAKEN
    return new


async def next_change(store: RedisJobs, wanted: str | None) -> None:
    changes = store.changes()
    async with asyncio.timeout(20):
        while await anext(changes) != wanted:
            pass


def every_call(store: RedisJobs, job: Job) -> list[Callable[[], Awaitable[object]]]:
    new = advance(job, Assigned(store.replica), 1)
    return [
        lambda: store.add(new_job(), b""),
        lambda: store.add_within(new_job(), b"", BOUNDS),
        lambda: store.get(job.id),
        lambda: store.find("alice", "k"),
        lambda: store.body(job.id),
        lambda: store.replace(job, new),
        lambda: store.claim(job, new, SLOTS),
        lambda: store.remove(job),
        store.list,
        lambda: store.counts(["alice"]),
        lambda: store.spent(None, 1),
        lambda: store.due(Stage.ENDED, 1),
        lambda: store.wait(job.id, job.version, 60),
        lambda: store.slot_use([], SLOTS),
        store.orphans,
        lambda: store.renew(running=0, promised=0),
        store.leave,
        store.replicas,
        store.notes,
        store.owner_key,
        lambda: store.join(US),
        store.probe,
    ]


# The server away


async def test_without_a_server_every_call_is_unavailable_at_once(
    server: RedisServer, store: RedisJobs
) -> None:
    """§18: status and kick-offs 503 within 2 s."""
    job = await store.add(new_job(key="k"), b"")
    server.kill()
    with logged() as log:
        for call in every_call(store, job):
            begun = time.monotonic()
            with pytest.raises(
                StoreUnavailable, match=f"the job store at unix://{server.directory}"
            ):
                await call()
            assert time.monotonic() - begun < 2
    (down,) = log.named("store.down")
    assert (down["store"], str(server.directory) in down["cause"]) == ("jobs", True)


async def test_a_silent_server_is_unavailable_within_two_seconds(
    relay: ByteRelay, relayed: RedisJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call fails with its first command, which is given up after less than two seconds."""
    job = await relayed.add(new_job(key="k"), b"")
    connections, failed = relayed._connections, Counter[int]()
    unavailable, current = connections._unavailable, ContextVar("current", default=-1)

    def count(fault: str) -> StoreUnavailable:
        failed[current.get()] += 1
        return unavailable(fault)

    async def numbered(number: int, call: Callable[[], Awaitable[object]]) -> None:
        current.set(number)
        await call()

    monkeypatch.setattr(connections, "_unavailable", count)
    relay.requests.clear()
    calls = every_call(relayed, job)
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(
            *(numbered(number, call) for number, call in enumerate(calls)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * len(calls)
    assert [failed[number] for number in range(len(calls))] == [1] * len(calls)
    assert connections.bound < 2
    relay.requests.set()
    await relay.cut()
    assert await available(lambda: relayed.get(job.id)) == job


async def test_a_hanging_server_holds_no_connection_for_ever(
    server: RedisServer, store: RedisJobs
) -> None:
    """More calls than there are connections, and afterwards all of these serve again."""
    job = await store.add(new_job(), b"")
    server.pause()
    calls = [store.get(job.id) for _ in range(50)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    server.go_on()
    await available(lambda: store.get(job.id))
    assert await asyncio.gather(*(store.get(job.id) for _ in range(50))) == [job] * 50


async def test_12_requests_of_strangers_do_not_delay_the_renewal_of_a_lease(
    store: RedisJobs,
) -> None:
    """Each poll with an invented token and id reads the store. Another replica would take over the
    jobs of one whose lease ends.
    """
    strangers = [
        asyncio.create_task(store._connections.command("BLPOP", "nothing", 60)) for _ in range(600)
    ]
    await asyncio.sleep(0)
    await store.renew(running=3, promised=0)
    assert not any(each.done() for each in strangers)
    await asyncio.wait(strangers)
    await available(store.replicas)
    assert [each.running for each in await store.replicas()] == [3]


async def test_18_a_renewal_that_got_no_response_is_repeated_on_a_new_connection(
    server: RedisServer, store: RedisJobs
) -> None:
    """Otherwise it would try one connection after the other that a firewall has dropped."""
    await asyncio.gather(*(store.get("") for _ in range(9)))
    assert store._connections._idle
    store._patience = 0.2
    server.pause()
    with pytest.raises(StoreUnavailable, match="did not respond"):
        await store.renew(running=0, promised=0)
    assert not store._connections._idle
    server.go_on()
    await store.renew(running=0, promised=0)


async def executed_scripts(store: RedisJobs) -> int:
    """How many scripts the server has executed."""
    found = await store._connections.command("INFO", "commandstats")
    _, _, rest = found.decode().partition("cmdstat_evalsha:calls=")
    return int(rest.partition(",")[0])


async def test_a_job_that_the_server_would_add_after_its_failure_is_not_added(
    server: RedisServer, store: RedisJobs
) -> None:
    """§18: the caller of the kick-off got 503, whatever becomes of this replica."""
    await store.add(new_job(), b"")
    before, known = await executed_scripts(store), await store.list()
    store._connections.bound = 0.2
    server.pause()
    with pytest.raises(StoreUnavailable, match="did not respond"):
        await store.add(new_job(), b"")
    server.go_on()
    store._connections.bound = 20
    async with asyncio.timeout(20):
        while await executed_scripts(store) < before + 2:  # `list` and `add`  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await store.list() == known


async def test_a_job_that_the_server_adds_after_its_failure_is_seen(
    store: RedisJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§18: whoever settles what became of it, because the request of the `add` was cut off on its
    way, must not find nothing just before the server executes it.
    """
    execute, late = store._connections.run, list[asyncio.Task[Any]]()

    async def delayed(script: Script, *args: Any) -> Any:
        await asyncio.sleep(0.2)
        return await execute(script, *args)

    async def cut(script: Script, *args: Any) -> Any:
        late.append(asyncio.create_task(delayed(script, *args)))
        raise StoreUnavailable("the connection was closed")

    await store.time()
    monkeypatch.setattr(store._connections, "bound", 1.0)
    monkeypatch.setattr(store._connections, "run", cut)
    job = new_job()
    with pytest.raises(StoreUnavailable):
        await store.add(job, b"")
    monkeypatch.setattr(store._connections, "run", execute)
    assert await store.get(job.id) == job
    assert not store._adding
    await asyncio.gather(*late)


async def test_the_clock_of_the_server_may_be_set(store: RedisJobs) -> None:
    """What was read of it seems wrong by an hour then; the additions that follow succeed."""
    await store.add(new_job(), b"")
    for _ in range(3):
        store._clock.read(time.time() - 3600)
    job = await store.add(new_job(), b"")
    assert await store.get(job.id) == job


async def test_a_server_whose_clock_is_always_ahead_adds_nothing(
    store: RedisJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.stores.redis_jobs.server_clock.ServerClock.now", lambda _: 0.0)
    with pytest.raises(StoreUnavailable, match="too slow"):
        await store.add(new_job(), b"")
    assert await store.list() == []


async def test_jobs_and_leases_outlive_a_restart_of_the_server(
    server: RedisServer, store: RedisJobs
) -> None:
    job = await store.add(new_job(key="k", replica=store.replica), b"body")
    job = await claimed(store, job)
    waiting = asyncio.create_task(store.wait(new_job().id, 1, 0))
    changes = store.changes()
    server.kill()
    await asyncio.wait([waiting])
    server.start()
    async with asyncio.timeout(20):
        while await anext(changes) is not None:
            pass
    assert await available(lambda: store.get(job.id)) == job
    assert await store.body(job.id) == b"body"
    assert await store.find("alice", "k") == job
    assert await store.replace(job, advance(job, Claimed(store.replica), 2))
    assert waiting.done()


async def test_a_server_that_lost_its_data_gets_owner_key_and_identity_back(
    server: RedisServer, store: RedisJobs
) -> None:
    """The owner hashes of running replicas stay valid."""
    job = await store.add(new_job(), b"")
    await store.join(US)
    key = await store.owner_key()
    server.kill()
    server.forget()
    server.start()
    assert await available(lambda: store.get(job.id)) is None
    assert await store.replace(job, advance(job, Shown(), 1)) is False
    await store.renew(running=0, promised=0)
    assert len(await store.replicas()) == 1
    async with opened(server.url) as other:
        assert await other.owner_key() == key
        with pytest.raises(WrongCluster):
            await other.join(replace(US, artifacts="elsewhere"))


async def test_a_replica_with_the_key_of_a_lost_cluster_is_refused(
    server: RedisServer, store: RedisJobs
) -> None:
    """It gets no lease: others take over its jobs."""
    await store.owner_key()
    await store._connections.command("FLUSHALL")
    async with opened(server.url) as other:
        await other.owner_key()
        await other.renew(running=0, promised=0)
        job = await store.add(replace(new_job(), replica=store.replica), b"")
        with pytest.raises(StoreUnavailable, match="restart this replica"):
            await store.renew(running=0, promised=0)
        assert [each.id for each in await other.replicas()] == [other.replica]
        assert await other.orphans() == [job]


async def test_scripts_that_the_server_forgot_are_sent_again(store: RedisJobs) -> None:
    await store._connections.command("SCRIPT", "FLUSH")
    job = await store.add(new_job(), b"")
    assert await store.list() == [job]


# Connections


async def kill_clients(server: RedisServer) -> None:
    async with opened(f"{server.url}?prefix={uuid4()}") as other:
        await other._connections.command("CLIENT", "KILL", "TYPE", "normal")
        await other._connections.command("CLIENT", "KILL", "TYPE", "pubsub")


async def test_connections_that_were_closed_meanwhile_are_not_used(
    server: RedisServer, store: RedisJobs
) -> None:
    """Services close idle connections: the next call does not fail."""
    jobs = [await store.add(new_job(number), b"") for number in range(20)]
    await asyncio.gather(*(store.get(job.id) for job in jobs))
    changes = store.changes()
    await kill_clients(server)
    async with asyncio.timeout(20):
        while await anext(changes) is not None:
            pass
    assert all(
        await asyncio.gather(*(store.replace(job, advance(job, Shown(), 1)) for job in jobs))
    )


async def test_a_wait_and_the_feed_go_on_after_their_connection_broke(
    relay: ByteRelay, relayed: RedisJobs, server: RedisServer
) -> None:
    job = await relayed.add(new_job(), b"")
    waiting = asyncio.create_task(relayed.wait(job.id, job.version, 60))
    changes = relayed.changes()
    await relay.cut()
    async with asyncio.timeout(20):
        while await anext(changes) is not None:
            pass
    async with opened(server.url) as other:
        new = advance(job, Shown(), 1)
        assert await other.replace(job, new)
    async with asyncio.timeout(20):
        assert await waiting == new
        assert await anext(changes) == job.id


async def test_a_change_that_the_feed_missed_ends_a_wait_within_seconds(
    relay: ByteRelay, relayed: RedisJobs, server: RedisServer
) -> None:
    """The connection of the feed is silent, and not noticed yet: versions are compared."""
    job = await relayed.add(new_job(), b"")
    relayed._tasks[0].cancel()
    waiting = asyncio.create_task(relayed.wait(job.id, job.version, 60))
    await asyncio.sleep(0)
    async with opened(server.url) as other:
        new = advance(job, Shown(), 1)
        assert await other.replace(job, new)
    async with asyncio.timeout(20):
        assert await waiting == new
    assert redis_store._LOOK < 3


async def test_a_silent_feed_is_connected_again(relay: ByteRelay, relayed: RedisJobs) -> None:
    relay.responses.clear()
    accepted = relay.accepted
    async with asyncio.timeout(20):
        while relay.accepted == accepted:  # noqa: ASYNC110 - time has to pass
            await asyncio.sleep(0.05)
    relay.responses.set()
    await next_change(relayed, None)


async def test_a_lack_of_memory_makes_the_store_unavailable_once(
    store: RedisJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change was made and its response could not be read. The feed is read again, too."""
    job = await store.add(new_job(), b"")
    new = advance(job, Shown(), 1)
    read = AbstractConnection.read_response
    lacking = ["EVALSHA", "feed"]

    async def fails(connection: AbstractConnection, **options: Any) -> Any:
        response = await read(connection, **options)
        if lacking and ("feed" if "timeout" in options else "EVALSHA") == lacking[0]:
            lacking.pop(0)
            raise MemoryError
        return response

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "read_response", fails)
        with pytest.raises(StoreUnavailable, match="there is no memory"):
            await store.replace(job, new)
        changes = store.changes()
        async with asyncio.timeout(20):
            while lacking:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert await store.get(job.id) == new
    async with asyncio.timeout(20):
        while await anext(changes) is not None:
            pass


async def test_there_are_so_many_connections_at_most(relay: ByteRelay, relayed: RedisJobs) -> None:
    job = await relayed.add(new_job(), b"")
    await asyncio.gather(*(relayed.get(job.id) for _ in range(200)))
    assert relay.accepted <= 17  # one is the feed's


async def test_a_change_whose_outcome_is_unknown_is_recognised(
    relay: ByteRelay, relayed: RedisJobs
) -> None:
    """It is not repeated by the store. jobs/record.py finds what became of it."""
    job = await relayed.add(new_job(replica=relayed.replica), b"")
    job = await claimed(relayed, job)
    record = Record(relayed, job, lambda: 2.0)
    relay.responses.clear()
    with pytest.raises(StoreUnavailable):
        await record.advance(Claimed(relayed.replica))
    relay.responses.set()
    await relay.cut()
    changed = await available(lambda: record.advance(Claimed(relayed.replica)))
    assert changed == advance(job, Claimed(relayed.replica), 2.0)
    assert await relayed.get(job.id) == changed


async def test_a_cut_at_any_moment_leaves_no_half_change(
    relay: ByteRelay, relayed: RedisJobs, server: RedisServer
) -> None:
    """Records and indexes agree, whatever became of each call."""
    async with opened(server.url) as other:
        for number in range(30):
            calls = [
                asyncio.create_task(
                    relayed.add(new_job(number * 4 + each, key=f"{number}.{each}"), b"body")
                )
                for each in range(4)
            ]
            for _ in range(number % 7):
                await asyncio.sleep(0)
            await relay.cut()
            await asyncio.wait(calls)
            for call in calls:
                call.exception()
            async with asyncio.timeout(20):  # the server may still execute what it has received
                while (before := await other.counts(["alice"])).records != len(  # noqa: ASYNC110
                    jobs := await other.list()
                ) or await other.counts(["alice"]) != before:
                    await asyncio.sleep(0.01)
            for job in jobs:
                assert await other.find("alice", job.request.idempotency_key or "") == job
                assert await other.body(job.id) == b"body"


# Full memory


async def test_a_full_store_refuses_new_jobs_and_ends_the_others(
    server: RedisServer, store: RedisJobs
) -> None:
    """Progress, ends, claims and leases go on, so that memory becomes free."""
    command = store._connections.command
    runs, waits = [await store.add(new_job(n, replica=store.replica), b"x") for n in range(2)]
    runs = await claimed(store, runs)
    await command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="maxmemory"):
        await store.add(new_job(), b"")
    with pytest.raises(StoreUnavailable, match="maxmemory"):
        await store.probe()
    assert [job.id for job in await listed(store)] == [waits.id, runs.id]
    await store.renew(running=1, promised=0)
    await claimed(store, waits)
    progress = advance(runs, Claimed(store.replica), 2)
    over = advance(progress, Failed(ERROR), 3)
    assert await store.replace(runs, progress)
    assert await store.replace(progress, over)
    assert await store.remove(over)
    await command("CONFIG", "SET", "maxmemory", "0")
    await store.probe()


async def test_a_server_that_cannot_write_is_unavailable_as_a_whole(store: RedisJobs) -> None:
    """A read-only replica, after a failover: nothing is changed, and reads go on."""
    job = await store.add(new_job(), b"")
    await store._connections.command("REPLICAOF", "127.0.0.1", "1")
    for call in (lambda: store.replace(job, advance(job, Shown(), 1)), store.probe):
        with pytest.raises(StoreUnavailable, match=r"read.only replica"):
            await call()
    await store._connections.command("REPLICAOF", "NO", "ONE")
    assert await store.get(job.id) == job
    await store.probe()


# Memory


def typical(number: int, **changes: object) -> Job:
    return new_job(
        number,
        owner=f"{number % 50:064x}",
        aliases=(f"{number % 50 + 1000:064x}",),
        key=str(uuid4()),
        session=(session := str(uuid4())),
        target=f"/v8/RestoreSessions/{session}/organization/mailboxes/{uuid4()}/exportToPst",
        accept="application/octet-stream",
        host="vb365.example.com:4443",
        **changes,
    )


def finished(job: Job, replica: str) -> list[Job]:
    """The versions of a job, to its end."""
    facts = FileFacts(
        media_type="application/octet-stream",
        file_name="Mailbox of somebody.pst",
        size=1 << 40,
        etag='"0123456789abcdef"',
    )
    versions = [job]
    for event in (
        Assigned(replica),
        Claimed(replica),
        Answered(facts),
        Finalizing(1 << 40),
        Succeeded(1 << 40, "x" * 44, 1e9, "pst"),
    ):
        versions.append(advance(versions[-1], event, 1e9))
    return versions


async def test_a_job_costs_less_than_four_kilobytes_in_the_store(store: RedisJobs) -> None:
    """With its entries in all indexes and, until its end, a body of 1 KiB. Each caller has one job,
    which costs most.
    """
    command = store._connections.command

    async def used() -> int:
        lines = (await command("INFO", "memory")).decode().splitlines()
        return int(next(line for line in lines if line.startswith("used_memory:")).split(":")[1])

    count = 500
    await store.add(typical(0), b"")
    before = await used()
    jobs = [
        replace(
            typical(number, replica=store.replica),
            owner=random.randbytes(32).hex(),
            aliases=(random.randbytes(32).hex(),),
        )
        for number in range(count)
    ]
    items = [{"id": base64.b64encode(random.randbytes(60)).decode()} for _ in range(10)]
    body = json.dumps({"items": items}).encode()
    assert 900 < len(body) < 1200
    for job in jobs:
        await store.add(job, body)
    assert (await used() - before) / count < 4096
    for job in jobs:
        versions = finished(job, store.replica)
        assert await store.replace(versions[0], replace(versions[-1], version=job.version + 1))
    assert (await used() - before) / count < 4096
    for job in await store.list():
        await store.remove(job)
    keys = {key.decode().removeprefix("vb365-async-proxy:") for key in await command("KEYS", "*")}
    assert keys <= {"replicas", f"lease:{store.replica}", "counters"}


@pytest.mark.parametrize("size", [0, 1, 512, 513, 5000])
@pytest.mark.parametrize("make", [bytes, random.randbytes], ids=["zeros", "random"])
async def test_a_body_is_stored_in_few_bytes_and_read_as_it_was(
    store: RedisJobs, size: int, make: Callable[[int], bytes]
) -> None:
    body = make(size)
    job = await store.add(new_job(), body)
    assert await store.body(job.id) == body
    stored = await store._connections.command("STRLEN", f"{store._prefix}body:{job.id}")
    assert stored <= (100 if size > 512 and make is bytes else size + 1)


async def test_a_record_that_is_rebuilt_from_its_file_has_no_body(store: RedisJobs) -> None:
    """§9: it has ended, and keeps no memory for a body."""
    queued = new_job()
    job = advance(advance(queued, Claimed("gone"), 1.0), Failed(ERROR), 2.0)
    await store.add(job, b"")
    assert await store.get(job.id) == job
    assert not await store._connections.command("EXISTS", f"{store._prefix}body:{job.id}")


@pytest.mark.parametrize("data", [b"{", b"\x78 no zlib", b"{}"])
async def test_a_damaged_record_hides_no_other(store: RedisJobs, data: bytes) -> None:
    """Neither a start nor a sweep fails for it; the job itself is not available."""
    damaged, other = new_job(), new_job()
    for job in (damaged, other):
        await store.add(job, b"")
    await store._connections.command("HSET", f"{store._prefix}job:{damaged.id}", "data", data)
    entries._report.cache_clear()
    with logged() as log:
        for _ in range(2):
            assert [job.id for job in await store.list()] == [other.id]
    assert [line["logger"] for line in log.named("job record skipped")] == [entries.__name__]
    with pytest.raises(StoreUnavailable, match="record that is damaged"):
        await store.get(damaged.id)


async def test_a_damaged_body_is_unavailable(store: RedisJobs) -> None:
    job = await store.add(new_job(), b"body")
    await store._connections.command("SET", f"{store._prefix}body:{job.id}", b"\x01body")
    with pytest.raises(StoreUnavailable, match="body that is damaged"):
        await store.body(job.id)


async def test_ten_thousand_jobs_are_listed_in_bounded_replies(store: RedisJobs) -> None:
    jobs = [new_job(number, owner=f"{number % 9}") for number in range(10_000)]

    async def add(some: list[Job]) -> None:
        for job in some:
            await store.add(job, b"")

    await asyncio.gather(*(add(jobs[start::16]) for start in range(16)))
    assert await store.list() == jobs[::-1]
    assert await store.list(owner="3") == [job for job in reversed(jobs) if job.owner == "3"]
    orphans = await store.orphans()
    assert len(orphans) == 10_000


async def listed(store: RedisJobs) -> list[Job]:
    return [job async for part in store.newest(owners=["alice"]) for job in part]


async def test_a_page_of_the_list_reads_no_other_records(store: RedisJobs) -> None:
    """Of thousands of jobs, a caller mostly wants to see the newest."""
    command = store._connections.command
    jobs = [await store.add(new_job(number), b"") for number in range(300)]
    await command("CONFIG", "RESETSTAT")
    async with aclosing(store.newest(owners=["alice"])) as parts:
        assert await anext(parts) == jobs[:-33:-1]
    stats = await command("INFO", "commandstats")
    (reads,) = re.findall(rb"cmdstat_hget:calls=([0-9]+)", stats)
    assert int(reads) == 32
    assert await listed(store) == jobs[::-1]


async def test_the_order_of_a_list_is_kept_while_it_is_read(store: RedisJobs) -> None:
    """An owner whose jobs are not listed costs nothing."""
    command = store._connections.command
    old = await store.add(new_job(1), b"")
    assert await command("KEYS", f"{store._prefix}newest:*") == []
    assert await listed(store) == [old]
    key = f"{store._prefix}newest:owner:alice"
    new = await store.add(new_job(2), b"")
    assert await command("ZRANGE", key, 0, -1) == [old.id.encode(), new.id.encode()]
    assert 0 < await command("TTL", key) <= 3600
    assert await store.remove(old)
    assert await command("ZRANGE", key, 0, -1) == [new.id.encode()]
    assert await listed(store) == [new]


async def test_what_a_replica_of_another_version_adds_and_removes_is_listed(
    store: RedisJobs,
) -> None:
    """An older one does not know the order of lists."""
    jobs = [await store.add(new_job(number), b"") for number in range(3)]
    await listed(store)
    key = f"{store._prefix}newest:owner:alice"
    await store._connections.command("ZREM", key, jobs[1].id)
    assert await listed(store) == jobs[::-1]
    await store._connections.command("ZADD", key, 5, "removed")
    assert await listed(store) == jobs[::-1]
    await store._connections.command("DEL", key)
    assert await listed(store) == jobs[::-1]


async def test_the_last_starts_of_ten_thousand_owners_are_remembered(store: RedisJobs) -> None:
    """As in jobs/queue.py: those of the longest ago are forgotten."""
    job = await store.add(new_job(replica=store.replica, accepted=True), b"")
    command = store._connections.command
    key = "vb365-async-proxy:started"
    await command("ZADD", key, *(part for n in range(10_010) for part in (n - 20_000, n)))
    await claimed(store, job)
    assert await command("ZCARD", key) == 10_000
    assert await command("ZRANGE", key, 0, 0) == [b"11"]
    assert await command("ZRANGE", key, -1, -1) == [b"alice"]


# Scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
async def test_the_server_knows_a_script_by_the_name_that_is_sent(
    store: RedisJobs, script: Script
) -> None:
    """And its text compiles."""
    sha = await store._connections.command("SCRIPT", "LOAD", script.text)
    assert sha.decode() == script.sha


async def test_progress_changes_no_index(store: RedisJobs) -> None:
    """Most changes are progress: their cost does not grow with the indexes."""
    job = await store.add(new_job(), b"")
    new = advance(job, Shown(), 1)
    command = store._connections.command
    await command("CONFIG", "RESETSTAT")
    assert await store.replace(job, new)
    calls = (await command("INFO", "commandstats")).decode()
    called = {line.split(":")[0].removeprefix("cmdstat_") for line in calls.splitlines()[1:]}
    assert "hset" in called
    assert called & {"zadd", "zrem", "sadd", "srem"} == set()
