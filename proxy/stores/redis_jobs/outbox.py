"""The jobs with undelivered messages of webhooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from proxy.core.job import Job
from proxy.stores.redis_jobs import scripts
from proxy.stores.redis_jobs.connections import Connections
from proxy.stores.redis_jobs.entries import text


class RedisOutbox(ABC):
    """The `Outbox` of a job store in Redis."""

    _connections: Connections
    _prefix: str

    async def pending(self, endpoint: str, until: float, limit: int) -> Sequence[Job]:
        """As `Outbox.pending`."""
        args = (text(endpoint), repr(float(until)), limit)
        return await self._records(await self._connections.run(scripts.PENDING, *args))

    async def backlog(self, endpoint: str) -> int:
        """As `Outbox.backlog`."""
        key = f"{self._prefix}outbox:{endpoint}"
        return int(await self._connections.command("ZCARD", key))

    @abstractmethod
    async def _records(self, reply: tuple[list[bytes], list[bytes]]) -> list[Job]:
        """The jobs of a reply."""
