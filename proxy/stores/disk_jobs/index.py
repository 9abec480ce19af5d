"""The jobs of a store in memory. Look-ups do not read the disk."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from proxy.core import outbox, retention
from proxy.core.job import Job
from proxy.core.rescue import claims
from proxy.core.retention import Stage
from proxy.ports import Counts

_T = TypeVar("_T")


#: As `Job.sort_key`.
_SortKey = tuple[float, str]
#: What jobs are sorted by, and the owner, session, stage or endpoint.
_List = tuple[str, Hashable]
#: Where a job is: a list and the job's entry in it.
_Link = tuple[_List, Any]
_ALL: _List = ("all", None)
_SPENT: _List = ("spent", None)


class JobIndex:
    """Jobs by id, owner, idempotency key, session, age, stage, rank and webhook endpoint. It wakes
    those who wait for a change.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        #: The sorted lists that are not empty.
        self._lists: dict[_List, list[Any]] = {}
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
        found = self._list(_ALL if owner is None else ("owner", owner))
        if session is not None:
            within = self._list(("session", session.lower()))
            found = within if owner is None else sorted({*found} & {*within})
        return [self._jobs[each] for _, each in reversed(found)]

    def newest(
        self, owners: Collection[str], session: str | None, before: _SortKey | None, limit: int
    ) -> Sequence[Job]:
        """The first `limit` jobs of the session, otherwise of any of the owners, that are listed
        after `before`, if that is given.
        """
        if session is not None:
            lists = [self._list(("session", session.lower()))]
        else:
            lists = [self._list(("owner", owner)) for owner in owners]
        found: set[_SortKey] = set()
        for keys in lists:
            end = len(keys) if before is None else bisect_left(keys, before)
            found.update(keys[max(0, end - limit) : end])
        return [self._jobs[each] for _, each in sorted(found, reverse=True)[:limit]]

    def counts(self, owners: Collection[str]) -> Counts:
        """As `JobStore.counts`."""
        live, known = (self._of_any(kind, owners) for kind in ("live", "owner"))
        return Counts(len(live), len(known), len(self._jobs))

    def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        """As `JobStore.spent`."""
        if owners is None:
            return [self._jobs[each] for *_, each in self._list(_SPENT)[:limit]]
        mine = self._of_any("owner", owners)
        ranks = [rank for _, each in mine if (rank := retention.spent(self._jobs[each]))]
        return [self._jobs[each] for *_, each in sorted(ranks)[:limit]]

    def due(self, stage: Stage, until: float) -> Sequence[Job]:
        """As `JobStore.due`."""
        waiting = self._list(("stage", stage))
        return [
            self._jobs[each]
            for _, each in waiting[: bisect_right(waiting, until, key=itemgetter(0))]
        ]

    def pending(self, endpoint: str, until: float, limit: int) -> Sequence[Job]:
        """As `Outbox.pending`."""
        waiting = self._list(("pending", endpoint))
        end = min(limit, bisect_right(waiting, until, key=itemgetter(0)))
        return [self._jobs[each] for _, each in waiting[:end]]

    def backlog(self, endpoint: str) -> int:
        """As `Outbox.backlog`."""
        return len(self._list(("pending", endpoint)))

    def put(self, job: Job) -> None:
        """Add the job, or replace the one with its id. Call it again after a MemoryError."""
        old = self._jobs.get(job.id)
        before, after = _links(old), _links(job)
        claimed, kept = claims(job), () if old is None else claims(old)
        gained, lost = after - before, before - after
        new = [each for each in claimed if each not in kept]
        gone = [each for each in kept if each not in claimed]
        try:
            for link in gained:
                self._insert(link)
            for claim in claimed:
                self._by_key[claim] = job.id
            self._unlink(job.id, lost, gone)
            self._jobs[job.id] = job  # last: until then a repetition has all to do
        except MemoryError:
            self._unlink(job.id, gained, new)
            raise
        self._wake(job.id)

    def drop(self, id: str) -> None:
        """Forget the job. Call it again after a MemoryError."""
        job = self._jobs.get(id)
        if job is not None:
            self._unlink(id, _links(job), claims(job))
            del self._jobs[id]
        self._wake(id)

    def _insert(self, link: _Link) -> None:
        """Add the link unless it is there: a MemoryError may have kept it from being removed."""
        key, entry = link
        entries = self._lists.get(key)
        if entries is None:
            self._lists[key] = [entry]
            return
        at = bisect_left(entries, entry)
        if at == len(entries) or entries[at] != entry:
            entries.insert(at, entry)

    def _unlink(
        self, id: str, links: Collection[_Link], claimed: Collection[tuple[str, str]]
    ) -> None:
        """Remove those of the links and idempotency keys of a job that there are."""
        for key, entry in links:
            entries = self._lists.get(key, [])
            at = bisect_left(entries, entry)
            if at < len(entries) and entries[at] == entry:
                del entries[at]
                if not entries:  # the index must not outgrow the jobs
                    del self._lists[key]
        for claim in claimed:
            if self._by_key.get(claim) == id:
                del self._by_key[claim]

    def _list(self, key: _List) -> Sequence[Any]:
        return self._lists.get(key, ())

    def _of_any(self, kind: str, owners: Collection[str]) -> Collection[_SortKey]:
        """What the owners' lists of that kind have, once each. Most callers have one owner, whose
        list is not copied.
        """
        found = [self._list((kind, owner)) for owner in owners]
        return found[0] if len(found) == 1 else set().union(*found)

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


def _links(job: Job | None) -> set[_Link]:
    if job is None:
        return set()
    sort_key = job.sort_key
    links: set[_Link] = {(_ALL, sort_key)}
    for owner in job.owners:
        links.add((("owner", owner), sort_key))
        if not job.terminal:
            links.add((("live", owner), sort_key))
    if (found := retention.stage(job)) is not None:
        links.add((("stage", found[0]), (found[1], job.id)))
    if (rank := retention.spent(job)) is not None:
        links.add((_SPENT, rank))
    for endpoint, due in outbox.pending(job).items():
        links.add((("pending", endpoint), (due, job.id)))
    if job.request.session is not None:
        links.add((("session", job.request.session.lower()), sort_key))
    return links


def _discard(index: defaultdict[str, set[_T]], key: str, member: _T) -> None:
    """Remove `member`, and its set if it is empty then, so that the index does not outgrow the
    jobs.
    """
    members = index.get(key, set())
    members.discard(member)
    if not members:
        index.pop(key, None)
