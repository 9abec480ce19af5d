"""The jobs of a store in memory. Look-ups do not read the disk."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

from proxy.core import outbox, retention
from proxy.core.job import Job
from proxy.core.rescue import claims
from proxy.core.retention import Stage
from proxy.ports import Counts

_T = TypeVar("_T")


#: As `Job.sort_key`.
_SortKey = tuple[float, str]


class JobIndex:
    """Jobs by id, owner, idempotency key, session, age, stage, rank and webhook endpoint. It wakes
    those who wait for a change.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        self._by_age: list[_SortKey] = []
        self._by_owner: defaultdict[str, list[_SortKey]] = defaultdict(list)
        self._by_session: defaultdict[str, list[_SortKey]] = defaultdict(list)
        self._live: defaultdict[str, set[str]] = defaultdict(set)
        self._stages: dict[Stage, list[tuple[float, str]]] = {stage: [] for stage in Stage}
        self._spent: list[tuple[bool, float, str]] = []
        self._pending: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
        self._waiters: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, id: str) -> Job | None:
        """The job, or None."""
        return self._jobs.get(id)

    def find(self, owner: str, idempotency_key: str) -> Job | None:
        """The owner's job with that key, or None. Tombstones are ignored."""
        known = self._by_key.get((owner, idempotency_key))
        return None if known is None else self._jobs[known]

    def list(self, owner: str | None, session: str | None) -> list[Job]:
        """The jobs of the owner and of the session, newest first. None selects all."""
        found = self._by_age if owner is None else self._by_owner.get(owner, [])
        if session is not None:
            within = self._by_session.get(session.lower(), [])
            found = within if owner is None else sorted({*found} & {*within})
        return [self._jobs[each] for _, each in reversed(found)]

    def newest(
        self, owners: Collection[str], session: str | None, before: _SortKey | None, limit: int
    ) -> Sequence[Job]:
        """The first `limit` jobs of the session, otherwise of any of the owners, that are listed
        after `before`, if that is given.
        """
        if session is not None:
            lists = [self._by_session.get(session.lower(), [])]
        else:
            lists = [self._by_owner.get(owner, []) for owner in owners]
        found: set[_SortKey] = set()
        for keys in lists:
            end = len(keys) if before is None else bisect_left(keys, before)
            found.update(keys[max(0, end - limit) : end])
        return [self._jobs[each] for _, each in sorted(found, reverse=True)[:limit]]

    def counts(self, owners: Collection[str]) -> Counts:
        """As `JobStore.counts`."""
        return Counts(
            len(_union(self._live, owners)), len(_union(self._by_owner, owners)), len(self._jobs)
        )

    def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        """As `JobStore.spent`."""
        if owners is None:
            return [self._jobs[each] for *_, each in self._spent[:limit]]
        mine = _union(self._by_owner, owners)
        ranks = [rank for _, each in mine if (rank := retention.spent(self._jobs[each]))]
        return [self._jobs[each] for *_, each in sorted(ranks)[:limit]]

    def due(self, stage: Stage, until: float) -> Sequence[Job]:
        """As `JobStore.due`."""
        waiting = self._stages[stage]
        return [
            self._jobs[each]
            for _, each in waiting[: bisect_right(waiting, until, key=itemgetter(0))]
        ]

    def pending(self, endpoint: str, until: float, limit: int) -> Sequence[Job]:
        """As `Outbox.pending`."""
        waiting = self._pending.get(endpoint, [])
        end = min(limit, bisect_right(waiting, until, key=itemgetter(0)))
        return [self._jobs[each] for _, each in waiting[:end]]

    def backlog(self, endpoint: str) -> int:
        """As `Outbox.backlog`."""
        return len(self._pending.get(endpoint, ()))

    def put(self, job: Job) -> None:
        """Add the job, or replace the one with its id."""
        self._unlink(job.id)
        self._jobs[job.id] = job
        sort_key = job.sort_key
        insort(self._by_age, sort_key)
        for owner in {*job.owners}:
            insort(self._by_owner[owner], sort_key)
            if not job.terminal:
                self._live[owner].add(job.id)
        if (found := retention.stage(job)) is not None:
            insort(self._stages[found[0]], (found[1], job.id))
        if (rank := retention.spent(job)) is not None:
            insort(self._spent, rank)
        for endpoint, due in outbox.pending(job).items():
            insort(self._pending[endpoint], (due, job.id))
        if job.request.session is not None:
            insort(self._by_session[job.request.session.lower()], sort_key)
        self._by_key |= dict.fromkeys(claims(job), job.id)
        self._wake(job.id)

    def drop(self, id: str) -> None:
        """Forget the job."""
        self._unlink(id)
        self._wake(id)

    def _unlink(self, id: str) -> None:
        job = self._jobs.pop(id, None)
        if job is None:
            return
        sort_key = job.sort_key
        del self._by_age[bisect_left(self._by_age, sort_key)]
        for owner in {*job.owners}:
            _remove(self._by_owner, owner, sort_key)
            _discard(self._live, owner, id)
        if (found := retention.stage(job)) is not None:
            del self._stages[found[0]][bisect_left(self._stages[found[0]], (found[1], id))]
        if (rank := retention.spent(job)) is not None:
            del self._spent[bisect_left(self._spent, rank)]
        for endpoint, due in outbox.pending(job).items():
            waiting = self._pending[endpoint]
            del waiting[bisect_left(waiting, (due, id))]
        if job.request.session is not None:
            _remove(self._by_session, job.request.session.lower(), sort_key)
        for claim in claims(job):
            if self._by_key.get(claim) == id:
                del self._by_key[claim]

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        """As `JobStore.wait`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while (job := self._jobs.get(id)) is not None and job.version == version:
            changed = loop.create_future()
            self._waiters[id].add(changed)
            try:
                done, _ = await asyncio.wait([changed], timeout=max(0, deadline - loop.time()))
            finally:
                _discard(self._waiters, id, changed)
            if not done or changed.cancelled():
                break
        return self._jobs.get(id)

    def _wake(self, id: str) -> None:
        for changed in self._waiters.get(id, ()):
            if not changed.done():
                changed.set_result(None)

    def release(self) -> None:
        """End all waits. They return the job as it is."""
        for waiters in self._waiters.values():
            for changed in waiters:
                changed.cancel()


def _union(index: Mapping[str, Collection[_T]], owners: Collection[str]) -> Collection[_T]:
    """What the owners have, once each. Most callers have one owner, whose part is not copied."""
    found = [index[owner] for owner in owners if owner in index]
    return found[0] if len(found) == 1 else set().union(*found)


def _remove(index: defaultdict[str, list[_SortKey]], key: str, sort_key: _SortKey) -> None:
    """Remove `sort_key` from its sorted list, and the list if it is empty then."""
    keys = index[key]
    del keys[bisect_left(keys, sort_key)]
    if not keys:
        del index[key]


def _discard(index: defaultdict[str, set[_T]], key: str, member: _T) -> None:
    """Remove `member`, and its set if it is empty then, so that the index does not outgrow the
    jobs.
    """
    members = index.get(key, set())
    members.discard(member)
    if not members:
        index.pop(key, None)
