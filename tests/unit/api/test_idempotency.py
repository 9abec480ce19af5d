"""Who takes an Idempotency-Key, one step at a time (CONTRACT §8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

import pytest

from proxy.api import idempotency, unproven
from proxy.api.idempotency import IdempotencyKeys
from proxy.core.errors import Problem
from proxy.core.events import Cancelled, CancelRequested, Claimed, Event, Failed
from proxy.core.job import ErrorCode, Job, JobError
from proxy.core.retention import Retention
from proxy.jobs.record import advance_for_caller
from proxy.ports import Fields, JobStore, KeyClaimed, StoreUnavailable
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials
from tests.unit.upstream.callers import Scripted, Vb365, credentials, job, jwt, make

KEY = "k"
REFUSED = JobError(code=ErrorCode.UNREACHABLE, message="VB365 is down.", retryable=True)
FIRST, SECOND = credentials(jwt("alice", "1")), credentials(jwt("alice", "2"))


class World:
    """The keys with a store on disk and a scripted VB365, which is down for the tokens in `down`
    and rejects those in `rejected`.
    """

    def __init__(self, jobs: JobStore) -> None:
        self.down: set[str] = set()
        self.rejected: set[str] = set()
        self.jobs = jobs
        self.access: Access
        self.vb365: Vb365
        self.access, self.vb365, self.clock = make(self.decide)
        self.keys = self.make_keys(self.access, Retention(result=1e9, record=1e9))

    def make_keys(self, access: Access, retention: Retention) -> IdempotencyKeys:
        return IdempotencyKeys(jobs=self.jobs, access=access, retention=retention, now=self.clock)

    def decide(self, token: str, target: str, cookie: bool) -> int:
        return 503 if token in self.down else 401 if token in self.rejected else 200

    async def kickoff(
        self, who: Credentials, stored: asyncio.Event | None = None, go: asyncio.Event | None = None
    ) -> Job:
        """Take the key for a new job, as a kick-off does; return the job that has it."""
        learned = await self.access.learn(who)
        owner, *aliases = self.access.owners(who)
        made = job(owner, aliases=tuple(aliases))
        made = replace(made, request=replace(made.request, idempotency_key=KEY))
        async with (
            self.keys.announced(who, KEY, made.id, learned=learned),
            self.keys.taking(who, made) as found,
        ):
            if found is None:
                if stored is not None and go is not None:
                    stored.set()
                    await go.wait()
                return await self.jobs.add(made, b"")
            return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    jobs = await DiskJobs.open(tmp_path)
    yield World(jobs)
    await jobs.close()


async def through_events(world: World, id: str, *events: Event) -> None:
    for event in events:
        await advance_for_caller(world.jobs, id, event, world.clock)


async def fail(*_: object) -> Never:
    raise StoreUnavailable("the disk is full")


async def turns() -> None:
    """Let other tasks run."""
    for _ in range(50):
        await asyncio.sleep(0)


def token(who: Credentials) -> str:
    return who.authorization[0].decode()


async def test_a_confirmed_kickoff_waits_for_an_unconfirmed_one(world: World) -> None:
    """§8: which is being stored, and may be the same caller's."""
    storing, go = asyncio.Event(), asyncio.Event()
    world.down.add(token(FIRST))
    first = asyncio.create_task(world.kickoff(FIRST, storing, go))
    await storing.wait()
    second = asyncio.create_task(world.kickoff(SECOND))
    await turns()
    assert not second.done()
    world.down.clear()
    go.set()
    assert (await first).id == (await second).id


async def test_a_kickoff_whose_client_has_left_is_waited_for_until_it_is_stored(
    world: World,
) -> None:
    """§8, §3.9: it is stored all the same."""
    world.down.add(token(FIRST))
    made = job(*world.access.owners(FIRST)[:1])
    made = replace(made, request=replace(made.request, idempotency_key=KEY))
    async with AsyncExitStack() as storing:
        async with world.keys.announced(FIRST, KEY, made.id, learned=None):
            assert await storing.enter_async_context(world.keys.taking(FIRST, made)) is None
        world.down.clear()
        second = asyncio.create_task(world.kickoff(SECOND))
        await turns()
        assert not second.done()
        await world.jobs.add(made, b"")
    assert (await second).id == made.id


async def test_a_refused_kickoff_is_not_remembered(world: World) -> None:
    """§8: any number of them would displace those that are stored. So it is if the client has left,
    and with a kick-off that gets the job of another.
    """
    world.down |= {token(FIRST), token(SECOND)}
    made = job(*world.access.owners(FIRST)[:1])
    made = replace(made, request=replace(made.request, idempotency_key=KEY))
    with pytest.raises(Problem):
        async with (
            world.keys.announced(FIRST, KEY, made.id, learned=None),
            world.keys.taking(FIRST, made),
        ):
            raise Problem("capacity-exhausted", "The queue is full.")
    assert len(world.keys._unproven) == 0
    storing, full = AsyncExitStack(), Problem("capacity-exhausted", "The queue is full.")
    async with world.keys.announced(FIRST, KEY, made.id, learned=None):
        await storing.enter_async_context(world.keys.taking(FIRST, made))
    assert len(world.keys._unproven) == 1
    await storing.__aexit__(Problem, full, None)
    assert len(world.keys._unproven) == 0
    first = await world.kickoff(SECOND)
    assert (await world.kickoff(SECOND)).id == first.id
    assert len(world.keys._unproven) == 1


async def test_kickoffs_that_wait_displace_no_stored_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8, §12: as many invented tokens as there are connections may wait for VB365 at a time."""
    monkeypatch.setattr(unproven, "MAX_ENTRIES", 3)
    world.down |= {token(FIRST)}
    first = await world.kickoff(FIRST)
    async with AsyncExitStack() as waiting:
        for number in range(5):
            invented = credentials(jwt(f"m{number}", "1"))
            announced = world.keys.announced(invented, KEY, f"m{number}", learned=None)
            await waiting.enter_async_context(announced)
        await world.keys._trim()
        world.down.clear()
        assert (await world.kickoff(SECOND)).id == first.id
    assert len(world.keys._unproven) == 0


async def test_duplicates_at_a_time_are_remembered_as_one(world: World) -> None:
    """§8: many of one client, with one token, while VB365 does not say whose it is."""
    world.down.add(token(FIRST))
    found = await asyncio.gather(*(world.kickoff(FIRST) for _ in range(3 * unproven.MAX_SAME)))
    assert len({each.id for each in found}) == len(world.keys._unproven) == 1
    world.down.clear()
    assert (await world.kickoff(SECOND)).id == found[0].id


@pytest.mark.parametrize("end", ["failed", "cancelling", "cancelled", "removed", "the first"])
async def test_exports_that_end_without_a_file_make_room_first(
    world: World, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """§8, §12: while VB365 is down, those of any number of invented tokens fail at once."""
    monkeypatch.setattr(unproven, "MAX_ENTRIES", 5)
    world.down.add(token(FIRST))
    first = await world.kickoff(FIRST)
    for number in range(9):
        world.clock.now += 1
        invented = credentials(jwt(f"m{number}"))
        world.down.add(token(invented))
        made = await world.kickoff(invented)
        if end == "removed":
            await world.jobs.remove(made)
        elif end == "failed":
            await through_events(world, made.id, Claimed(""), Failed(REFUSED))
        elif end == "cancelling":
            await through_events(world, made.id, CancelRequested())
        elif end == "cancelled":
            await through_events(world, made.id, CancelRequested(), Cancelled())
        elif number == 0:
            await through_events(world, first.id, Claimed(""), Failed(REFUSED))
        if number > 6:
            await world.keys._trim()
    assert len(world.keys._unproven) == 5
    world.down.clear()
    assert ((await world.kickoff(SECOND)).id == first.id) is (end != "the first")


async def test_a_kickoff_that_the_store_failed_to_add_makes_room_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8, §12: it may have been added all the same, and is remembered as long as there is room."""
    monkeypatch.setattr(unproven, "MAX_ENTRIES", 3)
    world.down.add(token(FIRST))
    first = await world.kickoff(FIRST)
    with monkeypatch.context() as failing:
        failing.setattr(world.jobs, "add", fail)
        for number in range(5):
            world.clock.now += 1
            invented = credentials(jwt(f"m{number}"))
            world.down.add(token(invented))
            with pytest.raises(StoreUnavailable):
                await world.kickoff(invented)
    assert len(world.keys._unproven) == 6
    await world.keys._trim()
    assert len(world.keys._unproven) == 3
    world.down.clear()
    assert (await world.kickoff(SECOND)).id == first.id


@pytest.mark.parametrize("asked_by", ["a kick-off", "the proxy"])
async def test_questions_about_invented_tokens_do_not_delay_those_about_remembered_ones(
    world: World, asked_by: str
) -> None:
    """§8, §9: as many as have turns are in progress, and VB365 takes its time with each."""
    assert await world.access.learn(SECOND)
    world.down.add(token(FIRST))
    first = await world.kickoff(FIRST)
    world.down.clear()
    send, slow = world.vb365.send, {token(credentials(jwt(f"m{n}"))).encode() for n in range(9)}

    async def sending(method: bytes, target: bytes, fields: Fields, **options: Any) -> Scripted:
        if any(value in slow for _, value in fields):
            await asyncio.Event().wait()
        return await send(method, target, fields, **options)

    world.vb365.send = sending  # type: ignore[method-assign,assignment]
    strangers = [
        asyncio.create_task(world.access.learn(credentials(jwt(f"m{number}"))))
        for number in range(9)
    ]
    await turns()
    async with asyncio.timeout(2):
        if asked_by == "the proxy":
            await world.keys._confirm()
            assert len(world.keys._unproven) == 0
        assert (await world.kickoff(SECOND)).id == first.id
    for task in strangers:
        task.cancel()


async def test_tokens_are_forgotten_in_time_also_while_the_store_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§9: and the round goes on when it is back."""
    monkeypatch.setattr(idempotency, "_INTERVAL", 0.001)
    world.down.add(token(FIRST))
    await world.kickoff(FIRST)
    monkeypatch.setattr(world.keys._claims, "flush", fail)
    world.clock.now += unproven.MAX_AGE + 1
    running = asyncio.create_task(world.keys.run())
    async with asyncio.timeout(5):
        while len(world.keys._unproven):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.001)
    running.cancel()


@pytest.mark.parametrize("status", [413, 414, 431])
async def test_a_token_that_vb365_finds_too_long_is_forgotten(world: World, status: int) -> None:
    """§8: hundreds of them would delay the others, and VB365 never accepts them."""
    world.down.add(token(FIRST))
    first = await world.kickoff(FIRST)
    world.vb365.decide = lambda *_: status
    await world.keys._confirm()
    assert len(world.keys._unproven) == 0
    world.vb365.decide = world.decide
    world.down.clear()
    assert (await world.kickoff(SECOND)).id != first.id


async def test_a_kickoff_that_is_stored_at_the_second_attempt_is_remembered(world: World) -> None:
    """§8: the first one found the queue full, or a claim of another replica."""
    world.down.add(token(FIRST))
    made = job(*world.access.owners(FIRST)[:1])
    made = replace(made, request=replace(made.request, idempotency_key=KEY))
    async with world.keys.announced(FIRST, KEY, made.id, learned=None):
        with pytest.raises(KeyClaimed):
            async with world.keys.taking(FIRST, made):
                raise KeyClaimed
        async with world.keys.taking(FIRST, made):
            await world.jobs.add(made, b"")
    world.down.clear()
    assert (await world.kickoff(SECOND)).id == made.id


async def test_an_unconfirmed_kickoff_waits_for_a_confirmed_one(world: World) -> None:
    """§8: so that it looks for the key of the identity that it claims only afterwards."""
    storing, go = asyncio.Event(), asyncio.Event()
    world.down.add(token(FIRST))
    second = asyncio.create_task(world.kickoff(SECOND, storing, go))
    await storing.wait()
    first = asyncio.create_task(world.kickoff(FIRST))
    await turns()
    assert not first.done()
    go.set()
    await asyncio.gather(first, second)
    claimed = world.access.claimed(FIRST) or ""
    assert await world.keys.find([claimed], KEY) == await second


async def test_unconfirmed_kickoffs_do_not_wait_for_each_other(world: World) -> None:
    """§8: a forged token that is being stored delays nobody."""
    storing, go = asyncio.Event(), asyncio.Event()
    world.down |= {token(FIRST), token(SECOND)}
    first = asyncio.create_task(world.kickoff(FIRST, storing, go))
    await storing.wait()
    second = await world.kickoff(SECOND)
    assert not first.done()
    go.set()
    assert (await first).id != second.id


async def test_a_kickoff_that_is_never_stored_is_not_waited_for_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8: 503 while it is not known whether there is a job."""
    monkeypatch.setattr(idempotency, "_STORING", 0.01)
    storing, go = asyncio.Event(), asyncio.Event()
    world.down.add(token(FIRST))
    first = asyncio.create_task(world.kickoff(FIRST, storing, go))
    await storing.wait()
    with pytest.raises(Problem) as why:
        await world.kickoff(SECOND)
    assert why.value.status == 503
    go.set()
    await first


async def test_a_rejected_token_is_forgotten(world: World) -> None:
    """§8: it is asked about once, and takes no key."""
    world.down.add(token(FIRST))
    first = await world.kickoff(FIRST)
    world.down.clear()
    world.rejected.add(token(FIRST))
    second = await world.kickoff(SECOND)
    assert second.id != first.id
    before = len(world.vb365.requests)
    assert (await world.kickoff(SECOND)).id == second.id
    assert len(world.vb365.requests) == before
    kept = await world.jobs.get(first.id)
    assert kept is not None
    assert kept.owners == first.owners


async def test_callers_are_confirmed_a_few_at_a_time_and_not_while_vb365_is_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8: however many tokens were invented, a VB365 that is down gets few questions a round."""
    monkeypatch.setattr(idempotency, "_TOGETHER", 2)
    strangers = [credentials(jwt(f"m{number}")) for number in range(5)]
    world.down |= {token(who) for who in (*strangers, FIRST)}
    for who in (*strangers, FIRST):
        await world.kickoff(who)
    before = len(world.vb365.requests)
    for _ in range(3):
        await world.keys._confirm()
    assert len(world.vb365.requests) == before + 6
    world.down.clear()
    world.rejected |= {token(who) for who in strangers}
    await world.keys._confirm()
    assert len(world.keys._unproven) == 0
    assert await world.keys.find([world.access.claimed(FIRST) or ""], KEY) is not None
    assert await world.keys.find([world.access.claimed(strangers[0]) or ""], KEY) is None


async def test_a_job_that_is_removed_is_no_response_of_vb365(world: World) -> None:
    """§8: while VB365 does not respond, it is asked about a few callers at a time, however many of
    the jobs are gone.
    """
    strangers = [credentials(jwt(f"stranger-{number}")) for number in range(24)]
    world.down |= {token(who) for who in strangers}
    made = [await world.kickoff(who) for who in strangers]
    for gone in made[:: idempotency._TOGETHER]:
        await world.jobs.remove(gone)
    before = len(world.vb365.requests)
    await world.keys._confirm()
    assert len(world.vb365.requests) == before + idempotency._TOGETHER - 1


async def test_a_kickoff_whose_caller_is_confirmed_meanwhile_does_not_wait_for_itself(
    world: World,
) -> None:
    """Another request of the same caller may have been confirmed after it was announced."""
    made = job("", aliases=())
    request = replace(made.request, idempotency_key=KEY)
    async with world.keys.announced(FIRST, KEY, made.id, learned=None):
        assert await world.access.learn(FIRST)
        owner, *aliases = world.access.owners(FIRST)
        made = replace(made, owner=owner, aliases=tuple(aliases), request=request)
        async with asyncio.timeout(2), world.keys.taking(FIRST, made) as found:
            assert found is None
            await world.jobs.add(made, b"")
    assert await world.keys.find([owner], KEY) == made
