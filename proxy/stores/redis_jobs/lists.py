"""Lists of jobs."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Collection, Sequence

from proxy.core.job import Job
from proxy.stores.redis_jobs import scripts
from proxy.stores.redis_jobs.connections import Connections
from proxy.stores.redis_jobs.entries import text, unpack_all

#: Records read at a time, and first by a list of which only those of a page may be needed.
_TOGETHER, _PAGE = 250, 32


class RedisLists:
    """The lists of a job store in Redis."""

    _connections: Connections

    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        """As `JobStore.list`."""
        by_owner = ("", "") if owner is None else ("owner", text(owner))
        by_session = ("", "") if session is None else ("session", text(session.lower()))
        rows = await self._connections.run(scripts.LIST, *by_owner, *by_session)
        return sorted(await self._records(rows), key=lambda job: job.sort_key, reverse=True)

    async def newest(
        self, *, owners: Collection[str] = (), session: str | None = None
    ) -> AsyncGenerator[Sequence[Job], None]:
        """As `JobStore.newest`."""
        if session is None:
            sets = [b"owner:" + text(owner) for owner in owners]
        else:
            sets = [b"session:" + text(session.lower())]
        limit, created, last = _PAGE, b"", b""
        while sets:
            found = await self._connections.run(scripts.NEWEST, limit, created, last, *sets)
            limit, (created, last, *records) = _TOGETHER, found
            if jobs := unpack_all(records):
                yield jobs
            if not last:
                return

    async def _records(
        self, reply: tuple[builtins.list[bytes], builtins.list[bytes]]
    ) -> builtins.list[Job]:
        """The jobs of a reply: data of the first, ids of the others, which are read in further
        calls.
        """
        data, ids = reply
        jobs = unpack_all(data)
        for start in range(0, len(ids), _TOGETHER):
            more = await self._connections.run(scripts.RECORDS, *ids[start : start + _TOGETHER])
            jobs += unpack_all(more)
        return jobs
