"""The lease of this replica, and files that are only written while it lasts (CONTRACT §18).

Theory of operation. The store grants the lease, on its own clock. This process measures the time
since it last asked for it, on a clock that also counts while the machine sleeps: its view of the
lease ends before the store's does. After that it writes to no file until it has renewed the lease,
and then it first reads whether another replica has taken the job over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from proxy.clock import elapsed
from proxy.jobs.record import Lost
from proxy.ports import Artifact, Fillable, Partial, SharedJobs, Source, StoreUnavailable


class Lease:
    """The lease of this replica, for `length` seconds from each renewal. `seconds` never jumps."""

    def __init__(
        self, jobs: SharedJobs, *, length: float, seconds: Callable[[], float] = elapsed
    ) -> None:
        self._jobs = jobs
        self._length = length
        self._seconds = seconds
        self._until = float("-inf")
        #: Counts how often it began; another replica may have taken jobs over in between.
        self.term = 0

    @property
    def replica(self) -> str:
        """The id of this replica."""
        return self._jobs.replica

    @property
    def valid(self) -> bool:
        """Whether no other replica can have taken over the jobs of this one."""
        return self._seconds() < self._until

    async def renew(self, *, running: int, promised: int) -> bool:
        """Renew the lease; see `SharedJobs.renew`. Return whether it had ended. Raises
        `StoreUnavailable`.
        """
        asked = self._seconds()
        await self._jobs.renew(running=running, promised=promised)
        ended = not self.valid
        self.term += ended
        self._until = asked + self._length
        return ended

    async def confirm(self, id: str, fence: int) -> int:
        """Return the current term if this replica still holds the job under the fence. Raises
        `Lost` if it does not, `StoreUnavailable` if that is not known.
        """
        term = self.term
        job = await self._jobs.get(id)
        if job is None or (job.holder, job.fence) != (self.replica, fence):
            raise Lost
        self.check()
        return term

    def check(self) -> None:
        """Raise `StoreUnavailable` unless the lease is valid."""
        if not self.valid:
            raise StoreUnavailable("this replica has no lease: the job store does not respond")


class PartialFiles(Protocol):
    """The part of `ArtifactStore` that writes."""

    async def create(self, id: str, fence: int = 0) -> Partial:
        """As `ArtifactStore.create`."""

    async def resume(self, id: str, fence: int = 0) -> Partial | None:
        """As `ArtifactStore.resume`."""


class LeasedFiles:
    """Files that are written only while the lease is valid and the job is held."""

    def __init__(self, files: PartialFiles, lease: Lease) -> None:
        self._files = files
        self._lease = lease

    async def create(self, id: str, fence: int = 0) -> Partial:
        """As `ArtifactStore.create`. Raises `Lost`, too."""
        term = await self._lease.confirm(id, fence)
        return self._leased(await self._files.create(id, fence), id, fence, term)

    async def resume(self, id: str, fence: int = 0) -> Partial | None:
        """As `ArtifactStore.resume`. Raises `Lost`, too."""
        term = await self._lease.confirm(id, fence)
        kept = await self._files.resume(id, fence)
        return None if kept is None else self._leased(kept, id, fence, term)

    def _leased(self, partial: Partial, id: str, fence: int, term: int) -> LeasedPartial:
        if isinstance(partial, Fillable):
            return LeasedFillable(partial, self._lease, id, fence, term)
        return LeasedPartial(partial, self._lease, id, fence, term)


class LeasedPartial:
    """A `Partial` that raises `StoreUnavailable` while there is no lease, and `Lost` once another
    replica has taken the job over.
    """

    def __init__(self, partial: Partial, lease: Lease, id: str, fence: int, term: int) -> None:
        self._partial = partial
        self._lease = lease
        self._id = id
        self._fence = fence
        self._term = term

    @property
    def offset(self) -> int:
        """As `Partial.offset`."""
        return self._partial.offset

    async def write(self, chunk: bytes) -> None:
        """As `Partial.write`."""
        await self._check()
        await self._partial.write(chunk)

    async def read(self, start: int, stop: int) -> bytes:
        """As `Partial.read`."""
        await self._check()
        return await self._partial.read(start, stop)

    def publish(self) -> int:
        """As `Partial.publish`."""
        return self._partial.publish()

    async def commit(self, size: int, record_copy: Callable[[Artifact], bytes]) -> Artifact:
        """As `Partial.commit`."""
        await self._check()
        return await self._partial.commit(size, record_copy)

    async def keep(self) -> None:
        """As `Partial.keep`. A successor has a file of its own, which this does not touch."""
        await self._partial.keep()

    async def discard(self) -> None:
        """As `Partial.discard`. A successor has a file of its own, which this does not touch."""
        await self._partial.discard()

    async def _check(self) -> None:
        self._lease.check()
        if self._term != self._lease.term:
            self._term = await self._lease.confirm(self._id, self._fence)


class LeasedFillable(LeasedPartial):
    """A `LeasedPartial` over a `Fillable`."""

    _partial: Any

    async def fill(self, source: Source) -> bool:
        """As `Fillable.fill`. The lease is checked before each call of the source, which is
        short.
        """
        await self._check()
        more: bool = await self._partial.fill(source)
        return more
