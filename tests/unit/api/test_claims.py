"""One Idempotency-Key at several replicas, one step at a time (CONTRACT §8, §18)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
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
from tests.unit.upstream.callers import credentials, jwt


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


async def test_a_flood_of_claims_that_end_delays_nobody(
    two: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are withdrawn many at a time, and nobody waits for those that end meanwhile."""
    monkeypatch.setattr(claims, "_MOST", 1000)
    made = SharedClaims(two[0].shared)
    withdraw, calls = two[0].shared.withdraw, 0

    async def slow(ended: Collection[KeyClaim]) -> None:
        nonlocal calls
        calls += 1
        for number in range(300):
            made.withdraw(KeyClaim(owner="m", key=f"{calls}", id=str(number)))
        await withdraw(ended)

    monkeypatch.setattr(two[0].shared, "withdraw", slow)
    for number in range(600):
        made.withdraw(KeyClaim(owner="o", key="k", id=str(number)))
    async with asyncio.timeout(5):
        await made.flush()
    assert calls == 3
    for number in range(5000):
        made.withdraw(KeyClaim(owner="o", key="k", id=str(number)))
    assert len(made._over) == 1000


async def test_the_replica_that_has_asked_too_early_gets_another_moment(
    two: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8, §18: VB365 responds again, but that replica still waits for its last question."""
    monkeypatch.setattr(claims, "_PATIENCE", 0.5)
    two[0].down.add(token(FIRST))
    first = await two[0].taken(FIRST)
    second = asyncio.create_task(two[1].taken(SECOND))
    await asyncio.sleep(0.75)
    two[0].down.clear()
    assert (await second).id == first.id


async def test_tokens_that_make_vb365_fail_do_not_delay_the_others(
    two: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8, §18: they are asked about together."""
    monkeypatch.setattr(idempotency, "_INTERVAL", 0.2)
    monkeypatch.setattr(claims, "_PATIENCE", 0.4)
    bad = [credentials(jwt(f"m{number}")) for number in range(7)]
    two[0].down |= {token(who) for who in (*bad, FIRST)}
    for who in bad:
        await two[0].taken(who)
    first = await two[0].taken(FIRST)
    two[0].down.discard(token(FIRST))
    assert (await two[1].taken(SECOND)).id == first.id
