"""Every `JobStore` finds the rescued exports that a request can join (CONTRACT §14)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.events import (
    CancelRequested,
    Detached,
    Event,
    Failed,
    Forgotten,
)
from proxy.core.job import Job, Origin
from proxy.core.transitions import advance
from proxy.ports import JobStore
from tests.support.fakes import new_job
from tests.unit.stores.records import ERROR


def rescued(number: int = 0, **changes: Any) -> Job:
    return new_job(number, **({"origin": Origin.RESCUE, "fingerprint": "f"} | changes))


async def test_a_rescued_export_is_found_by_each_owner_and_its_fingerprint(jobs: JobStore) -> None:
    """§14: the same caller, target and body; a refreshed token is the same caller."""
    job = await jobs.add(rescued(aliases=("identity",)), b"")
    assert await jobs.match("alice", "f") == await jobs.match("identity", "f") == job
    for owner, fingerprint in (("bob", "f"), ("alice", "g"), ("alice", ""), ("", "f")):
        assert await jobs.match(owner, fingerprint) is None
    assert await jobs.find("alice", "f") is None


async def test_an_export_that_was_asked_for_is_no_match(jobs: JobStore) -> None:
    await jobs.add(new_job(fingerprint="f"), b"")
    await jobs.add(new_job(fingerprint="f", key="k"), b"")
    assert await jobs.match("alice", "f") is None


async def test_of_concurrent_identical_rescued_exports_one_is_added(jobs: JobStore) -> None:
    """§14: two identical POSTs at the same moment are one job."""
    candidates = [rescued(number) for number in range(20)]
    added = await asyncio.gather(*(jobs.add(job, b"") for job in candidates))
    assert len({job.id for job in added}) == 1
    assert await jobs.list() == [added[0]]
    other = rescued(fingerprint="g")
    assert await jobs.add(other, b"") == other


@pytest.mark.parametrize("event", [Detached(), Forgotten(), CancelRequested(), Failed(ERROR)])
async def test_the_next_rescued_export_is_added_once_nobody_joins_the_last(
    jobs: JobStore, event: Event
) -> None:
    """§14: after that the same POST is a new export."""
    first = await jobs.add(rescued(), b"")
    assert await jobs.replace(first, advance(first, event, 1.0))
    assert await jobs.match("alice", "f") is None
    second = rescued()
    assert await jobs.add(second, b"") == second
    assert await jobs.match("alice", "f") == second


async def test_a_removed_rescued_export_is_no_match(jobs: JobStore) -> None:
    first = await jobs.add(rescued(), b"")
    assert await jobs.remove(first)
    assert await jobs.match("alice", "f") is None
