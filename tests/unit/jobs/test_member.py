"""No change of another replica is missed (`proxy.jobs.replica`, CONTRACT §18)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.jobs import replica
from proxy.jobs.replica import Member
from proxy.ports import Changes, StoreUnavailable


class Others:
    """What a member needs. It notes its steps: "check all", "check <id>", "resume" and "fill"."""

    running = promised = term = 0
    #: Whether the next renewal finds that the lease had ended.
    ended = False

    def __init__(self) -> None:
        self.readers: list[Changes] = []
        self.steps: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}

    def changes(self) -> Changes:
        self.readers.append(Changes())
        return self.readers[-1]

    def tell(self, id: str | None) -> None:
        for reader in self.readers:
            reader.put(id)

    def unread(self) -> bool:
        return any(reader._unread for reader in self.readers)

    async def _step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.faults:
            raise self.faults.pop(name)

    async def check(self, id: str | None = None) -> bool:
        await self._step(f"check {id or 'all'}")
        return False

    async def resume_sealed(self) -> None:
        await self._step("resume")

    async def fill_slots(self) -> None:
        await self._step("fill")

    async def settle_own(self, drives: object) -> None:
        """All jobs are those of others."""

    async def settle_orphans(self) -> None:
        await self._step("settle")

    async def renew(self, *, running: int, promised: int) -> bool:
        await self._step("renew")
        ended, self.ended = self.ended, False
        return ended

    async def replicas(self) -> list[Any]:
        await self._step("replicas")
        return []

    def count_others(self, promised: int) -> None:
        """There are none."""

    def drives(self, id: str) -> bool:
        return False

    def call(self, id: str) -> None:
        """No job waits."""


@asynccontextmanager
async def following(others: Any) -> AsyncIterator[None]:
    """A member that does nothing by itself but follow the feed."""
    member = Member(jobs=others, lease=others, runner=others, takeover=others, heartbeat=1e6)
    running = asyncio.create_task(member.run())
    try:
        await until(lambda: bool(others.readers))
        with capture_logs():
            yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # there is no event for each condition
            await asyncio.sleep(0.001)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Others:
    monkeypatch.setattr(replica, "_RETRY", 0.05)
    monkeypatch.setattr(replica, "_SLOT_PAUSE", 0.0)
    monkeypatch.setattr(replica, "_SEALED_PAUSE", 0.0)
    return Others()


async def test_18_a_gap_within_a_look_at_all_jobs_leads_to_another_look(others: Others) -> None:
    """The job that changed may have been looked at before."""
    gate = others.gates["check all"] = asyncio.Event()
    async with following(others):
        others.tell(None)
        await until(lambda: "check all" in others.steps)
        others.tell(None)
        await until(lambda: not others.unread())
        gate.set()
        await until(lambda: others.steps.count("check all") == 2)


async def test_18_a_change_is_not_missed_while_the_feed_is_not_read(others: Others) -> None:
    """After a failure it is read again a moment later, and all jobs are looked at before."""
    others.faults["check a"] = StoreUnavailable("away")
    async with following(others):
        others.tell("a")
        await until(lambda: "check all" in others.steps)
        others.tell("b")
        await until(lambda: "check b" in others.steps)


@pytest.mark.parametrize("step", ["fill", "resume", "check all"])
async def test_18_a_step_that_failed_is_repeated_without_another_change(
    others: Others, step: str
) -> None:
    """A job that another replica has suspended would wait for its owner, or end after an hour."""
    others.faults[step] = StoreUnavailable("away")
    async with following(others):
        others.tell(None)
        await until(lambda: others.steps.count(step) == 2)


async def test_18_a_lease_that_could_not_be_renewed_is_renewed_soon(
    others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a heartbeat later: it would end although the store was away for a shorter time."""
    others.faults["renew"] = StoreUnavailable("away")
    factors = iter([0.0] * 6)  # the first pause of each step is over at once
    monkeypatch.setattr("random.uniform", lambda *_: next(factors, 1.0))
    async with following(others):
        await until(lambda: others.steps.count("renew") == 2)


async def test_18_all_jobs_are_looked_at_after_a_lease_that_had_ended(
    others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have taken them over, also if the store fails just after the renewal."""
    others.ended = True
    others.faults["replicas"] = StoreUnavailable("away")
    factors = iter([0.0] * 6)  # the first pause of each step is over at once
    monkeypatch.setattr("random.uniform", lambda *_: next(factors, 1.0))
    async with following(others):
        await until(lambda: others.steps.count("renew") == 2)
        await until(lambda: "check all" in others.steps)


@pytest.fixture
def member(others: Others, clock: list[float]) -> Member:
    parts: Any = others
    return Member(jobs=parts, lease=parts, runner=parts, takeover=parts, heartbeat=10.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only item is what `elapsed` returns."""
    now = [1000.0]
    monkeypatch.setattr(replica, "elapsed", lambda: now[0])
    return now


async def takes_over(member: Member, others: Others) -> bool:
    others.steps.clear()
    await member._settle_orphans()
    return "settle" in others.steps


async def test_18_no_job_is_taken_over_just_after_the_store_was_away(
    others: Others, member: Member, clock: list[float]
) -> None:
    """All leases may have ended, and the replicas that live renew theirs now."""
    await member.join()
    for _ in range(2):
        clock[0] += 10.0
        others.faults["renew"] = StoreUnavailable("away")
        with pytest.raises(StoreUnavailable):
            await member._renew()
    assert not await takes_over(member, others)
    await member._renew()
    assert not await takes_over(member, others)
    clock[0] += 10.0
    assert await takes_over(member, others)


async def test_18_no_job_is_taken_over_just_after_the_start(
    others: Others, member: Member, clock: list[float]
) -> None:
    """The store may have been away before."""
    assert not await takes_over(member, others)
    await member.join()
    clock[0] += 9.0
    assert not await takes_over(member, others)
    clock[0] += 1.0
    assert await takes_over(member, others)


async def test_18_no_job_is_taken_over_just_after_a_look_that_failed(
    others: Others, member: Member, clock: list[float]
) -> None:
    """It is repeated soon, and the store may be back without the leases before the feed is."""
    await member.join()
    clock[0] += 10.0
    others.faults["settle"] = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await member._settle_orphans()
    assert not await takes_over(member, others)
    await member._renew()
    clock[0] += 10.0
    assert await takes_over(member, others)


async def test_18_no_job_is_taken_over_just_after_a_gap_of_the_feed(
    others: Others, member: Member, clock: list[float]
) -> None:
    """A store that crashed and is back with a snapshot has lost the leases of all replicas."""
    await member.join()
    clock[0] += 10.0
    assert await takes_over(member, others)
    await member._renew()
    others.tell(None)
    others.readers[0].close()
    await member._follow()
    assert not await takes_over(member, others)
    clock[0] += 10.0
    assert await takes_over(member, others)


async def test_18_a_replica_that_hung_takes_no_job_over(
    others: Others, member: Member, clock: list[float]
) -> None:
    """Its own lease may have ended, so that its own jobs look like those of a lost one."""
    await member.join()
    clock[0] += 10.0
    assert await takes_over(member, others)
    await member._renew()
    clock[0] += 60.0
    assert not await takes_over(member, others)
    await member._renew()
    assert not await takes_over(member, others)
    clock[0] += 10.0
    assert await takes_over(member, others)
