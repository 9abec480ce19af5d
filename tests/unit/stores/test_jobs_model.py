"""The stores on disk and in Redis do, over any sequence of calls, cancellations and restarts, what
the one in memory does.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from proxy.core.events import Claimed, Failed, Forgotten
from proxy.core.job import ErrorCode, Job, JobError
from proxy.core.retention import Stage
from proxy.core.transitions import IllegalTransition, advance
from proxy.ports import JobStore
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.redis_jobs.store import RedisJobs
from tests.support.fakes import MemoryJobs, new_job
from tests.support.redis_server import RedisServer

_T = TypeVar("_T")
EVENTS = [
    Claimed("runner", 0),
    Failed(JobError(code=ErrorCode.INTERNAL, message="it broke", retryable=False)),
    Forgotten(),
]


class Jobs(RuleBasedStateMachine):
    """`versions` holds every version of every job that there ever was: also those that are stored
    no more.
    """

    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.model = MemoryJobs()
        self.store: DiskJobs | RedisJobs = self.run(self.open())
        self.ids: set[str] = set()

    async def open(self) -> DiskJobs | RedisJobs:
        jobs = await DiskJobs.open(self.directory)
        assert jobs.notes == ()
        return jobs

    def run(self, call: Awaitable[_T]) -> _T:
        async def bounded() -> _T:
            async with asyncio.timeout(30):
                return await call

        return self.runner.run(bounded())

    def known(self, job: Job) -> Job:
        """The job as a caller may hold it: no caller continues from a version that lost its
        race.
        """
        stored = self.run(self.model.get(job.id))
        return stored if stored is not None and stored.version == job.version else job

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    @rule(
        target=versions,
        created=st.integers(0, 3),
        owner=st.sampled_from("ab"),
        aliases=st.sampled_from([(), ("a",), ("b", "c")]),
        key=st.sampled_from([None, "k", "l"]),
        session=st.sampled_from([None, "s", "S", "t"]),
    )
    def add(
        self,
        created: int,
        owner: str,
        aliases: tuple[str, ...],
        key: str | None,
        session: str | None,
    ) -> Job:
        job = new_job(created, owner=owner, aliases=aliases, key=key, session=session)
        self.ids.add(job.id)
        expected = self.run(self.model.add(job, job.id.encode()))
        assert self.run(self.store.add(job, job.id.encode())) == expected
        return job

    @rule(target=versions, old=versions, event=st.sampled_from(EVENTS))
    def replace(self, old: Job, event: Claimed | Failed | Forgotten) -> Job:
        old = self.known(old)
        try:
            new = advance(old, event, old.updated + 1)
        except IllegalTransition:
            new = replace(old, version=old.version + 1)
        expected = self.run(self.model.replace(old, new))
        assert self.run(self.store.replace(old, new)) == expected
        return new

    @rule(target=versions, old=versions, turns=st.integers(0, 3))
    def replace_and_leave(self, old: Job, turns: int) -> Job:
        """The caller is cancelled: the model learns from the store whether it happened."""
        old = self.known(old)
        new = replace(old, version=old.version + 1, holder="left")

        async def leave() -> None:
            calling = asyncio.create_task(self.store.replace(old, new))
            for _ in range(turns):
                await asyncio.sleep(0)
            calling.cancel()
            await asyncio.wait([calling])
            await self.settled(old.id)

        self.run(leave())
        if self.run(self.store.get(old.id)) == new:
            self.run(self.model.replace(old, new))
        return new

    async def settled(self, id: str) -> None:
        await self.store.body(id)  # the writes before it are over by then

    @rule(old=versions)
    def remove(self, old: Job) -> None:
        assert self.run(self.store.remove(old)) == self.run(self.model.remove(old))

    @rule(target=versions, old=versions)
    def race(self, old: Job) -> object:
        """Two replaces and a removal at a time: the winners of both stores are the same, for both
        go in order.
        """
        old = self.known(old)
        first, second = (
            replace(old, version=old.version + 1, holder=name) for name in ("first", "second")
        )

        async def all_of(store: JobStore) -> list[bool]:
            return list(
                await asyncio.gather(
                    store.replace(old, first), store.replace(old, second), store.remove(old)
                )
            )

        expected = self.run(all_of(self.model))
        assert self.run(all_of(self.store)) == expected
        return multiple(first, second)

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.open())

    @invariant()
    def the_same_is_found(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        for owner, session in product((None, "a", "b", "c"), (None, "s", "t")):
            expected = await self.model.list(owner=owner, session=session)
            assert await self.store.list(owner=owner, session=session) == expected
        for owner, key in product("abc", "kl"):
            assert await self.store.find(owner, key) == await self.model.find(owner, key)
        for owners in ("a", "b", "ab"):
            assert await self.store.counts(owners) == await self.model.counts(owners)
            assert await self.store.spent(owners, 3) == await self.model.spent(owners, 3)
        assert await self.store.spent(None, 9) == await self.model.spent(None, 9)
        for stage in Stage:
            assert await self.store.due(stage, 2.0) == await self.model.due(stage, 2.0)
        for each in self.ids:
            assert await self.store.body(each) == await self.model.body(each)


class SharedJobs(Jobs):
    """`race` expects an order: the store has one connection here."""

    server: RedisServer

    async def open(self) -> RedisJobs:
        store = await RedisJobs.open(f"{self.server.url}?prefix={self.directory.name}")
        store._connections._free = asyncio.Semaphore(1)
        return store

    async def settled(self, id: str) -> None:
        assert isinstance(self.store, RedisJobs)
        while self.store._changing:
            await asyncio.wait(self.store._changing)


@pytest.fixture(autouse=True)
def _server(valkey_server: RedisServer) -> None:
    SharedJobs.server = valkey_server


TestJobs = Jobs.TestCase
TestSharedJobs = SharedJobs.TestCase
TestJobs.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestSharedJobs.settings = TestJobs.settings
