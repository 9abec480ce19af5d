"""Marks of what a replica reads are stored in time, whatever else it waits for (CONTRACT §6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import pytest

from proxy.stores.object_artifacts import sharing
from proxy.stores.object_artifacts.sharing import Sharing
from tests.support.artifacts import new_id


class SlowBucket:
    """A bucket whose requests for keys with the text `slow` wait for `gate`."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.done: list[str] = []
        self.slow = ""
        self.waiting = asyncio.Event()
        self.gate = asyncio.Event()

    async def _enter(self, keys: Collection[str]) -> None:
        if self.slow and any(self.slow in key for key in keys):
            self.waiting.set()
            await self.gate.wait()

    async def store(self, key: str, content: bytes) -> None:
        await self._enter([key])
        self.keys.add(key)
        self.done.append("store")

    async def remove(self, keys: Collection[str]) -> None:
        if keys:
            await self._enter(keys)
            self.keys -= set(keys)
            self.done.append("remove")

    async def sizes(self, prefix: str) -> dict[str, int]:
        return {key: 0 for key in self.keys if key.startswith(f"{prefix}/")}

    def has_mark(self, job: str) -> bool:
        return any(job in key and "/reading/" in key for key in self.keys)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "TICK", 0.001)
    monkeypatch.setattr(sharing, "GRACE", 0.0)


@pytest.fixture
async def bucket() -> SlowBucket:
    return SlowBucket()


@pytest.fixture
async def shared(bucket: SlowBucket) -> AsyncIterator[Sharing]:
    store: Any = bucket
    shared = Sharing(store, "this")
    yield shared
    bucket.gate.set()
    await shared.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # the bucket gives no event
            await asyncio.sleep(0.001)


async def test_6_a_mark_does_not_wait_for_that_of_another_job(
    bucket: SlowBucket, shared: Sharing
) -> None:
    bucket.slow, job = new_id(), new_id()
    shared.opened(bucket.slow)
    await bucket.waiting.wait()
    shared.opened(job)
    await until(lambda: bucket.has_mark(job))
    assert not bucket.has_mark(bucket.slow)


async def test_6_a_mark_does_not_wait_for_the_removal_of_a_large_file(
    bucket: SlowBucket, shared: Sharing
) -> None:
    bucket.slow, job = new_id(), new_id()
    shared.remove_later(bucket.slow, {f"artifacts/{bucket.slow}/0/00000000-0"})
    await bucket.waiting.wait()
    shared.opened(job)
    await until(lambda: bucket.has_mark(job))
    assert shared.removed == {bucket.slow}
    bucket.gate.set()
    await until(lambda: not shared.removed)


async def test_6_requests_for_one_job_follow_each_other(
    bucket: SlowBucket, shared: Sharing
) -> None:
    """A mark that is removed late never takes the next one with it."""
    job = new_id()
    shared.opened(job)
    await until(lambda: bucket.done == ["store"])
    bucket.slow = job
    shared.closed(job)
    await bucket.waiting.wait()
    shared.opened(job)
    bucket.gate.set()
    await until(lambda: len(bucket.done) == 3)
    assert bucket.done == ["store", "remove", "store"]
    assert bucket.has_mark(job)
