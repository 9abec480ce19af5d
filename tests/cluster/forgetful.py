"""Exports through replicas whose job store loses its data while the other faults go on: files keep
their jobs, all others are gone, and new exports work (CONTRACT §18).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from proxy.stores.redis_jobs.store import RedisJobs
from tests.cluster.balanced import COUNT
from tests.cluster.chaos import ATTEMPTS, ClusterChaos, artifact_store
from tests.support.process import Caller

_OWN = "/v8/_async/exports/"
#: How a job ended that the job store has lost.
LOST = "lost with the data of the job store"
#: Seconds within which a record is rebuilt: the interval of the sweeper, and a margin for a machine
#: that is busy with others.
_REBUILT = 40.0
#: Seconds within which all replicas have their leases again.
_JOINED = 30.0


class Gone(Exception):
    """The job was lost with the data of the job store."""


class ForgetfulChaos(ClusterChaos):
    """As `ClusterChaos`, with the data of the job store removed now and then."""

    def __init__(self, *args: Any, place: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self._place = place
        self._losing = False
        #: When data were lost last, and the jobs that had a complete file then.
        self._lost = float("-inf")
        self._complete: set[str] = set()
        #: When the last kick-off was sent whose response named the job.
        self._sent: dict[str, float] = {}
        #: The jobs whose callers follow them, and those that they have ended.
        self._followed: set[str] = set()
        self._given_up: set[str] = set()
        #: Exports that were sent after a loss, and whose files were downloaded.
        self.recovered = 0
        self._more = itertools.count(1_000_000)

    # Callers

    async def call_for(self, http: aiohttp.ClientSession, todo: Any) -> None:
        """As in the base class, and then until an export is complete that was sent after a loss."""
        await super().call_for(http, todo)
        while not self.recovered:
            await super().call_for(http, itertools.islice(self._more, 1))

    def note_accepted(self, path: str, job: str, token: str | None, sent: float) -> None:
        """As in the base class. A key begins a new job after a loss."""
        self._sent[job] = sent
        if self._losing or sent <= self._lost:
            token = None
        super().note_accepted(path, job, token, sent)

    async def _follow(self, caller: Caller, job: str, path: str, size: int) -> None:
        self._followed.add(job)
        patient = _Follower(self, caller)
        try:
            await super()._follow(patient, job, path, size)
        except Gone:
            self.report.outcomes[LOST] += 1
        else:
            self.recovered += self._sent[job] > self._lost > 0
        finally:
            self._followed.discard(job)

    def is_lost(self, job: str, *, deletes: bool) -> bool:
        """Whether a 404 means that the job is lost, False if its record may still be rebuilt."""
        if self._losing:
            return False
        assert self._sent[job] <= self._lost, f"job {job} was not found, and no data were lost"
        if deletes or job in self._given_up or job not in self._complete:
            return True
        assert time.monotonic() < self._lost + _REBUILT, f"job {job} was not rebuilt from its file"
        return False

    def give_up(self, job: str) -> None:
        """Note that the caller cancels or deletes the job: its file may be removed at any time."""
        self._given_up.add(job)

    # Fault injection

    def _injectors(self) -> list[tuple[str, float, float, Callable[[], Awaitable[None]]]]:
        name = "job store restarted without its data"
        return [*super()._injectors(), (name, 4, 8, self._lose_data)]

    async def _lose_data(self) -> None:
        """All replicas run meanwhile: one that starts first in an empty store begins a new cluster,
        which the others do not join.
        """
        async with AsyncExitStack() as stack:
            for replica in self.cluster.replicas:
                await stack.enter_async_context(replica.busy)
            await stack.enter_async_context(self.restarting)
            self._losing = True
            await asyncio.to_thread(self._server.kill)
            self._server.forget()
            await asyncio.to_thread(self._server.start)
            self._complete = await self._with_file()
            self._lost = time.monotonic()
            self.keyed.clear()
            self._losing = False
            await self._until_joined()

    async def _with_file(self) -> set[str]:
        """The followed jobs that have a complete file."""
        store = await artifact_store(self.cluster.artifacts, self._place)
        try:
            followed = list(self._followed)
            copies = await asyncio.gather(*(store.record_copy(job, None) for job in followed))
        finally:
            await store.close()
        return {job for job, copy in zip(followed, copies, strict=True) if copy is not None}

    async def _until_joined(self) -> None:
        jobs = await RedisJobs.open(self.cluster.jobs)
        try:
            async with asyncio.timeout(_JOINED):
                while len(await jobs.replicas()) < COUNT:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            await jobs.close()

    # The end

    def most_generations(self, path: str) -> int:
        """As in the base class. A job that was lost may be one whose 202 nobody has seen."""
        return super().most_generations(path) + self.tries[path] * (ATTEMPTS - 1)


class _Follower(Caller):
    """A caller who knows that the job store may have lost the job. Raises `Gone`."""

    def __init__(self, chaos: ForgetfulChaos, caller: Caller) -> None:
        super().__init__(caller.proxy, caller.http, caller.token)
        self._chaos = chaos

    async def ask(self, method: str, target: str, **fields: str) -> tuple[int, Any]:
        """As `Caller.ask`. While the record may be rebuilt, it is as if the store were away."""
        job = target.removeprefix(_OWN).partition("/")[0]
        deletes = method == "DELETE"
        if deletes or method == "POST":
            self._chaos.give_up(job)
        status, document = await super().ask(method, target, **fields)
        if status != 404:
            return status, document
        if self._chaos.is_lost(job, deletes=deletes):
            raise Gone
        return 503, document
