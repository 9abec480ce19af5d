"""Lists of jobs from a store that reads them whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence

from proxy.core.job import Job


class WholeLists(ABC):
    """The `newest` of such a store."""

    @abstractmethod
    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        """As `JobStore.list`."""

    async def newest(
        self, *, owners: Collection[str] = (), session: str | None = None
    ) -> AsyncGenerator[Sequence[Job], None]:
        """As `JobStore.newest`, in one part."""
        if session is not None:
            yield await self.list(session=session)
            return
        found = {job.id: job for owner in owners for job in await self.list(owner=owner)}
        yield sorted(found.values(), key=lambda job: job.sort_key, reverse=True)
