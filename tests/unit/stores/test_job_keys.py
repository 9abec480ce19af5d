"""Every `JobStore` keeps idempotency keys (CONTRACT §8)."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from proxy.core.events import (
    Failed,
    Forgotten,
    Identified,
)
from proxy.core.transitions import advance
from proxy.ports import JobStore, KeyTaken
from tests.support.fakes import new_job
from tests.unit.stores.records import ERROR, bumped


async def test_a_second_add_with_the_same_key_returns_the_first_job_and_writes_nothing(
    jobs: JobStore,
) -> None:
    """§8: the same caller's key stands for one job."""
    first = await jobs.add(new_job(key="k"), b"first")
    second = new_job(key="k")
    assert await jobs.add(second, b"second") == first
    assert await jobs.get(second.id) is None
    assert await jobs.body(second.id) is None
    assert await jobs.list() == [first]


async def test_a_key_belongs_to_its_owner_and_may_be_missing(jobs: JobStore) -> None:
    """§8: scoped to the caller; without a key every POST is a new job."""
    for job in (
        new_job(key="k"),
        new_job(key="k", owner="bob"),
        new_job(key="K"),
        new_job(),
        new_job(),
    ):
        assert await jobs.add(job, b"") == job
    assert len(await jobs.list()) == 5


async def test_a_hundred_concurrent_adds_with_one_key_make_one_job(jobs: JobStore) -> None:
    """§8: also for concurrent duplicates."""
    candidates = [new_job(number, key="k") for number in range(100)]
    busy = asyncio.create_task(jobs.add(new_job(999, owner="bob"), b""))
    await asyncio.sleep(0)
    responses = await asyncio.gather(*(jobs.add(job, job.id.encode()) for job in candidates))
    await busy
    assert len({job.id for job in responses}) == 1
    assert await jobs.list(owner="alice") == [responses[0]]
    assert await jobs.body(responses[0].id) == responses[0].id.encode()


async def test_find_returns_the_owners_job_of_a_key(jobs: JobStore) -> None:
    job = await jobs.add(new_job(key="k"), b"")
    assert await jobs.find("alice", "k") == job
    assert await jobs.find("bob", "k") is None
    assert await jobs.find("alice", "other") is None
    newer = bumped(job)
    assert await jobs.replace(job, newer)
    assert await jobs.find("alice", "k") == newer


async def test_a_key_is_taken_under_every_owner_of_its_job(jobs: JobStore) -> None:
    """§8: a caller who is known by one hash now and by another later gets the same job."""
    first = await jobs.add(new_job(key="k", owner="identity", aliases=("token",)), b"first")
    for owner in ("identity", "token"):
        assert await jobs.find(owner, "k") == first
        assert await jobs.list(owner=owner) == [first]
        assert await jobs.list(owner=owner, session="s1") == [first]
        assert await jobs.add(new_job(key="k", owner=owner), b"") == first
    assert await jobs.add(new_job(key="k", owner="other", aliases=("more", "token")), b"") == first
    assert await jobs.list() == [first]
    changed = bumped(first)
    assert await jobs.replace(first, changed)
    assert await jobs.find("token", "k") == changed
    assert await jobs.remove(changed)
    assert await jobs.find("identity", "k") is await jobs.find("token", "k") is None
    assert await jobs.list(owner="token") == []
    assert await jobs.find("other", "k") is await jobs.find("more", "k") is None


async def test_a_job_does_not_get_an_owner_whose_key_another_job_has(jobs: JobStore) -> None:
    """§8: one key of a caller is one job, also if the caller of a job is known later only."""
    first = await jobs.add(new_job(key="k", owner="identity"), b"")
    second = await jobs.add(new_job(key="k", owner="token"), b"")
    identified = advance(second, Identified("identity"), 1)
    with pytest.raises(KeyTaken):
        await jobs.replace(second, identified)
    assert await jobs.get(second.id) == second
    assert await jobs.find("identity", "k") == first
    assert await jobs.find("token", "k") == second
    ended = advance(second, Failed(ERROR), 1)
    assert await jobs.replace(second, ended)
    assert await jobs.replace(second, identified) is False
    assert await jobs.remove(first)
    identified = advance(ended, Identified("identity"), 1)
    assert await jobs.replace(ended, identified)
    assert await jobs.find("identity", "k") == identified


async def test_of_two_jobs_that_get_one_owner_at_a_time_one_has_the_key(jobs: JobStore) -> None:
    rivals = [await jobs.add(new_job(key="k", owner=f"token {n}"), b"") for n in range(2)]
    calls = (jobs.replace(job, advance(job, Identified("identity"), 1)) for job in rivals)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(map(type, outcomes), key=str) == [bool, KeyTaken]
    found = await jobs.find("identity", "k")
    assert found is not None
    assert found.id == rivals[outcomes.index(True)].id


async def test_concurrent_adds_under_different_owners_of_one_caller_make_one_job(
    jobs: JobStore,
) -> None:
    """§8: also for concurrent duplicates, while what is known of the caller changes."""
    owners = [
        ("token", ()),
        ("identity", ("token",)),
        ("token", ("identity",)),
        ("identity", ("other", "token")),
    ]
    for round_ in range(25):
        busy = asyncio.create_task(jobs.add(new_job(999, owner="bob"), b""))
        await asyncio.sleep(0)
        key = f"k{round_}"
        random.Random(round_).shuffle(owners)
        responses = await asyncio.gather(
            *(
                jobs.add(new_job(key=key, owner=owner, aliases=aliases), b"")
                for owner, aliases in owners
            )
        )
        await busy
        assert len({job.id for job in responses}) == 1


@pytest.mark.parametrize("keeps_key", [False, True])
async def test_a_tombstone_frees_its_key_but_can_be_got(jobs: JobStore, keeps_key: bool) -> None:
    """§8: the key dies with the record. §7: DELETE is idempotent while the tombstone lives."""
    job = await jobs.add(new_job(key="k"), b"")
    tombstone = advance(job, Forgotten(), 1)
    if keeps_key:
        tombstone = replace(tombstone, request=job.request)
    assert await jobs.replace(job, tombstone)
    assert await jobs.get(job.id) == tombstone
    assert await jobs.list(owner="alice") == [tombstone]
    assert await jobs.find("alice", "k") is None
    successor = new_job(key="k")
    assert await jobs.add(successor, b"") == successor
    assert await jobs.find("alice", "k") == successor
    assert await jobs.remove(tombstone)
    assert await jobs.find("alice", "k") == successor
