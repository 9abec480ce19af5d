"""One Idempotency-Key at several replicas, one step at a time (CONTRACT §8, §18)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from proxy.api import claims, idempotency
from proxy.api.claims import SharedClaims
from proxy.api.idempotency import IdempotencyKeys
from proxy.core.errors import Problem
from proxy.core.job import Job
from proxy.core.retention import Retention
from proxy.ports import KeyClaim, KeyClaimed
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials
from tests.support.shared import MemorySharedJobs, SharedStore
from tests.unit.api.test_idempotency import FIRST, KEY, SECOND, World, token


class Replica(World):
    """A replica with its own memory, `down` and `rejected`."""

    def __init__(self, jobs: MemorySharedJobs) -> None:
        self.shared = jobs
        super().__init__(jobs)

    def make_keys(self, access: Access, retention: Retention) -> IdempotencyKeys:
        return IdempotencyKeys(
            jobs=self.shared,
            access=access,
            retention=retention,
            now=lambda: 0.0,
            shared=self.shared,
        )

    async def taken(self, who: Credentials) -> Job:
        """As a kick-off, which tries again if its key is claimed meanwhile."""
        while True:
            with suppress(KeyClaimed):
                return await self.kickoff(who)


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Replica]]:
    monkeypatch.setattr(idempotency, "_INTERVAL", 0.01)
    monkeypatch.setattr(claims, "_PAUSE", 0.001)
    store = SharedStore()
    replicas = [Replica(store.handle()) for _ in range(2)]
    for each in replicas:
        await each.shared.renew(running=0, promised=0)
    running = [asyncio.create_task(each.keys.run()) for each in replicas]
    yield replicas
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_refreshed_token_at_another_replica_gets_the_first_job(two: list[Replica]) -> None:
    """§8, §18: the replica that has the first token asks VB365 about it as soon as it responds."""
    two[0].down.add(token(FIRST))
    first = await two[0].taken(FIRST)
    second = asyncio.create_task(two[1].taken(SECOND))
    await asyncio.sleep(0.05)
    assert not second.done()
    two[0].down.clear()
    assert (await second).id == first.id


async def test_a_rejected_token_at_another_replica_takes_no_key(two: list[Replica]) -> None:
    two[0].down.add(token(FIRST))
    first = await two[0].taken(FIRST)
    two[0].rejected.add(token(FIRST))
    two[0].down.clear()
    assert (await two[1].taken(SECOND)).id != first.id


async def test_a_kickoff_that_is_announced_too_late_finds_the_other_job(two: list[Replica]) -> None:
    """§8: the store refuses the key to whoever does not know of the claim."""
    storing, go = asyncio.Event(), asyncio.Event()
    second = asyncio.create_task(two[1].kickoff(SECOND, storing, go))
    await storing.wait()
    two[0].down.add(token(FIRST))
    first = await two[0].kickoff(FIRST)
    go.set()
    with pytest.raises(KeyClaimed):
        await second
    two[0].down.clear()
    assert (await two[1].taken(SECOND)).id == first.id


async def test_a_token_that_makes_vb365_fail_blocks_no_key_elsewhere(
    two: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_PATIENCE", 0.05)
    two[0].down.add(token(FIRST))
    first = await two[0].taken(FIRST)
    assert (await two[1].taken(SECOND)).id != first.id


async def test_no_second_generation_while_no_replica_can_ask_vb365(
    two: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_PATIENCE", 0.05)
    two[0].down.add(token(FIRST))
    first = await two[0].taken(FIRST)
    assert await two[1].access.learn(SECOND)
    two[1].down.add(token(SECOND))
    with pytest.raises(Problem) as why:
        await two[1].taken(SECOND)
    assert why.value.status == 503
    two[0].down.clear()
    assert (await two[1].taken(SECOND)).id == first.id


async def test_a_kickoff_that_stores_no_job_claims_nothing(two: list[Replica]) -> None:
    two[0].down.add(token(FIRST))
    async with two[0].keys.announced(FIRST, KEY, "id", learned=None):
        owner = two[0].access.claimed(FIRST) or ""
        assert list(await two[1].shared.claims(owner, KEY)) == ["id"]
    async with asyncio.timeout(5):
        while await two[1].shared.claims(owner, KEY):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


async def test_claims_are_withdrawn_by_several_at_the_same_time(two: list[Replica]) -> None:
    """Many kick-offs end at once; none of them fails, and no claim is left."""
    shared = two[0].shared
    made = SharedClaims(shared)
    ended = [KeyClaim(owner="o", key="k", id=str(number)) for number in range(5)]
    for claim in ended:
        await made.announce(claim)
        made.withdraw(claim)
    gate = shared.gates["withdraw"] = asyncio.Event()
    flushes = [asyncio.create_task(made.flush()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*flushes)
    assert list(await shared.claims("o", "k")) == []


async def test_a_claim_that_lost_its_place_is_withdrawn(two: list[Replica]) -> None:
    """Its token is not remembered any more, so that nobody would ask VB365 about it."""
    two[0].down.add(token(FIRST))
    gate = two[0].shared.gates["announce"] = asyncio.Event()
    announcing = asyncio.create_task(two[0].taken(FIRST))
    async with asyncio.timeout(5):
        while not len(two[0].keys._unproven):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0)
    [entry] = two[0].keys._unproven._entries.values()
    two[0].keys._unproven.remove(entry)
    gate.set()
    await announcing
    async with asyncio.timeout(5):
        while await two[1].shared.claims(entry.claimed, KEY):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
