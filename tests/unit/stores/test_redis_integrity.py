"""Records and indexes of the store in Redis agree after any sequence of changes by two replicas
whose connections break between, and within, commands (§18).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.events import (
    Answered,
    Assigned,
    Cancelled,
    CancelRequested,
    Claimed,
    Event,
    Expired,
    Failed,
    Finalizing,
    Forgotten,
    Interrupted,
    Resumed,
    Shown,
    Succeeded,
)
from proxy.core.job import FileFacts, Job, Phase
from proxy.core.rescue import unique_key
from proxy.core.retention import spent, stage
from proxy.core.transitions import IllegalTransition, advance
from proxy.ports import Bounds, SlotLimits, StoreUnavailable
from proxy.stores.redis_jobs.entries import entries, unpack
from proxy.stores.redis_jobs.store import RedisJobs
from tests.support.byte_relay import ByteRelay, byte_relay
from tests.support.fakes import new_job
from tests.support.redis_server import RedisServer
from tests.unit.stores.records import REFUSED

SLOTS = SlotLimits(total=2, per_caller=0, hold=60)
BOUNDS = Bounds(per_caller=9, queued=5, records_per_caller=9, records=12, slots=SLOTS)
FACTS = FileFacts(media_type="a/b", file_name=None, size=1, etag=None)
EVENTS: list[Event] = [
    Claimed("other"),
    Answered(FACTS),
    Finalizing(1),
    Succeeded(1, "x", 9.0, None),
    Failed(REFUSED),
    CancelRequested(),
    Cancelled(),
    Interrupted(),
    Resumed(replica="other"),
    Shown(),
    Expired(),
    Forgotten(),
]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "add",
                "add_within",
                "add_started",
                "claim",
                "change",
                "change",
                "change",
                "remove",
                "list",
            ]
        ),
        st.integers(0, 1),  # the replica
        st.integers(0, 99),  # the job
        st.sampled_from(EVENTS),
        st.one_of(st.none(), st.integers(0, 6)),  # cut the connections after so many turns
    ),
    max_size=40,
)
#: Keys that are no index of the records.
OTHERS = {"replicas", "counters", "started", "holds", "lease"}


@settings(max_examples=30)
@given(steps=STEPS)
def test_records_and_indexes_agree_whatever_breaks(
    server: RedisServer, steps: list[tuple[str, int, int, Event, int | None]]
) -> None:
    asyncio.run(_follow(server, steps))


async def _follow(
    server: RedisServer, steps: list[tuple[str, int, int, Event, int | None]]
) -> None:
    parameter = f"?prefix={uuid4()}"
    async with AsyncExitStack() as stack:
        sockets = server.directory / uuid4().hex[:8], server.directory / "redis.sock"
        relay = await stack.enter_async_context(byte_relay(*sockets))
        direct = await RedisJobs.open(server.url + parameter)
        stack.push_async_callback(direct.close)
        stores = []
        for _ in range(2):
            stores.append(await RedisJobs.open(f"unix://{relay.path}{parameter}"))
            stack.push_async_callback(stores[-1].close)
            await stores[-1].renew(running=0, promised=0)
        submitted: defaultdict[str, list[Job]] = defaultdict(list)
        for action, replica, chosen, event, turns in steps:
            jobs = await direct.list()
            job = jobs[chosen % len(jobs)] if jobs else None
            call = _call(action, stores[replica], job, chosen, event, submitted)
            if call is not None:
                await _made(call, relay, turns)
        for _ in range(3):  # the server has read by then what was sent before the last cut
            await direct._connections.command("PING")
        stored = await direct.list()
        assert all(job in submitted[job.id] for job in stored)
        indexes = await _indexes(direct)
        ordered = {name: indexes.pop(name) for name in [*indexes] if name.startswith("newest:")}
        assert indexes == _expected(stored)
        ages = indexes.get("age", {})
        for name, content in ordered.items():
            assert content == {each: ages[each] for each in indexes[name.removeprefix("newest:")]}
        for owner in "abc":
            assert await _listed(direct, owner) == [job for job in stored if owner in job.owners]


def _call(
    action: str,
    store: RedisJobs,
    job: Job | None,
    number: int,
    event: Event,
    submitted: dict[str, list[Job]],
) -> Callable[[], Awaitable[object]] | None:
    if action == "list":
        return lambda: _listed(store, "abc"[number % 3])
    if action.startswith("add"):
        aliases: tuple[str, ...] = ("c",) if number % 3 else ()
        key = str(number % 5) if number % 2 else None
        changes = {"owner": "ab"[number % 2], "aliases": aliases, "key": key}
        new = new_job(number, replica=store.replica, **changes)
        submitted[new.id].append(new)
        if action == "add":
            return lambda: store.add(new, b"body")
        if action == "add_within":
            return lambda: store.add_within(new, b"body", BOUNDS)
        started = advance(new, Assigned(store.replica), new.updated + 1)
        submitted[new.id].append(started)
        return lambda: store.add_within(new, b"body", BOUNDS, started)
    if job is None:
        return None
    if action == "remove":
        return lambda: store.remove(job)
    if action == "claim":
        if job.phase is not Phase.QUEUED:
            return None
        new = advance(job, Assigned(store.replica), job.updated + 1)
        submitted[job.id].append(new)
        return lambda: store.claim(job, new, SLOTS)
    try:
        new = advance(job, event, job.updated + 1)
    except IllegalTransition:
        # a key that two jobs take by new aliases would have no defined owner
        aliases = ("a", "c") if job.request.idempotency_key is None else job.aliases
        new = replace(job, version=job.version + 1, aliases=aliases)
    submitted[job.id].append(new)
    return lambda: store.replace(job, new)


async def _listed(store: RedisJobs, owner: str) -> list[Job]:
    return [job async for part in store.newest(owners=[owner]) for job in part]


async def _made(call: Callable[[], Awaitable[object]], relay: ByteRelay, turns: int | None) -> None:
    """Make the call; cut the connections after so many turns of the loop."""
    calling = asyncio.ensure_future(call())
    if turns is not None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await relay.cut()
    await asyncio.wait([calling])
    failure = calling.exception()
    assert failure is None or isinstance(failure, StoreUnavailable)


async def _indexes(store: RedisJobs) -> dict[str, Any]:
    """What the server holds of the prefix, beside the records' data."""
    command = store._connections.command
    reads = {
        b"set": lambda key: command("SMEMBERS", key),
        b"zset": lambda key: command("ZRANGE", key, 0, -1, "WITHSCORES"),
        b"hash": lambda key: command("HGETALL", key),
        b"string": lambda key: command("GET", key),
    }
    found: dict[str, Any] = {}
    for key in await command("KEYS", f"{store._prefix}*"):
        name = key.decode().removeprefix(store._prefix)
        if name.partition(":")[0] in OTHERS:
            continue
        kind = await command("TYPE", key)
        content = await reads[kind](key)
        pairs = kind in {b"zset", b"hash"} and not name.startswith("job:")
        if name.startswith("job:"):
            record = dict(zip(content[::2], content[1::2], strict=True))
            job = unpack(record[b"data"])
            assert record == {
                b"data": record[b"data"],
                b"version": str(job.version).encode(),
                b"entries": entries(job),
            }
        elif name in {"waiting", "active"}:
            found[name] = set(content[::2])
        elif pairs:
            found[name] = dict(zip(content[::2], content[1::2], strict=True))
        else:
            found[name] = set(content) if kind == b"set" else content
    return found


def _expected(jobs: list[Job]) -> dict[str, Any]:
    """The same, computed from the records."""
    found: defaultdict[str, Any] = defaultdict(dict)
    for job in jobs:
        for name, member in _members(job):
            found[name] |= {member: None}
        for name, member, value in _pairs(job):
            found[name] |= {member: value}
    plain = {name: set(members) for name, members in found.items() if None in members.values()}
    bodies = {f"body:{job.id}": b"\0body" for job in jobs if not job.terminal}
    return found | plain | bodies


def _members(job: Job) -> Iterator[tuple[str, bytes]]:
    """The sets that the job is in."""
    me = job.id.encode()
    if job.terminal:
        return
    if job.phase is not Phase.SUSPENDED:
        yield "active", me
    if job.holder is not None:
        yield "slots", me
    elif job.phase is Phase.QUEUED:
        yield "waiting", me


def _pairs(job: Job) -> Iterator[tuple[str, bytes, bytes]]:
    """The hashes and sorted sets that the job is in, with its value there."""
    me = job.id.encode()
    yield "age", me, f"{job.created:g}".encode()
    yield from ((f"owner:{owner}", me, b"%d" % (not job.terminal)) for owner in job.owners)
    if job.request.session is not None:
        yield f"session:{job.request.session.lower()}", me, b"0"
    if (key := unique_key(job)) is not None:
        for owner in job.owners:
            yield "keys", f"{owner}\0{key}".encode(), me
    if (at := stage(job)) is not None:
        yield f"stage:{at[0]}", me, f"{at[1]:g}".encode()
    if (rank := spent(job)) is not None:
        yield f"spent:{'ended' if rank[0] else 'refused'}", me, f"{rank[1]:g}".encode()
