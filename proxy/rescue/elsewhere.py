"""The bytes of a file while another replica stores it (CONTRACT §14, §18).

Theory of operation. The replica that stores the file publishes in the job's record how many of its
first bytes others can read: bytes that are synced on a shared volume, or whole segments in a
bucket. They are read here from a file that is opened after they were published.

None of that proves that all of them are of one file: a volume may show old bytes, and a job store
that has lost its last changes a record from before the export started again under the same name.
Therefore the last published byte is held back. The last bytes are sent only when the artifact is
committed and its digest is that of all bytes sent. Otherwise the response breaks off visibly, and
so it does as soon as the record shows another attempt, or the end of the job.

If that replica is lost, the client waits. Its own credentials resume the job, once; a replica that
takes it over stores the same file under a name of its own, and the response goes on there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import structlog

from proxy.core.job import Job, Phase, ResultState
from proxy.jobs.record import until_available
from proxy.ports import ArtifactStore, JobStore, PartialLost, Published, StoreUnavailable
from proxy.rescue.source import Pieces, of_reader

log = structlog.get_logger(__name__)

#: Resumes the job with the credentials of the request.
Resume = Callable[[Job], Awaitable[None]]

#: Bytes between two looks at the record: the job may have been cancelled.
_WINDOW = 64 << 20
#: Seconds of one wait for a change of the record, and for bytes that cannot be read yet.
_WAIT, _LATE = 30.0, 1.0
_GROWING = (Phase.TRANSFERRING, Phase.FINALIZING)
_OVER = (Phase.CANCELLING, Phase.COMPLETED, Phase.FORGOTTEN)


class Elsewhere:
    """Reads files that other replicas store. `published` is a capability of `artifacts`."""

    def __init__(self, jobs: JobStore, artifacts: ArtifactStore, published: Published) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._published = published

    def follows(self, job: Job) -> bool:
        """Whether first bytes of the job's file can be sent."""
        return job.phase in _GROWING and job.published > 1

    async def pieces(self, job: Job, resume: Resume) -> Pieces:
        """All bytes of the file that the job has now, as they are published. Raises `PartialLost`
        instead of ending early, and `StoreUnavailable`.
        """
        digest, sent, resumed = hashlib.sha256(), 0, False
        while job.result is not ResultState.AVAILABLE:
            stop = min(job.published - 1, sent + _WINDOW)
            async with aclosing(self._growing(job, sent, stop)) as growing:
                async for piece in growing:
                    digest.update(piece)
                    sent += len(piece)
                    yield piece
                    del piece  # the next one may take long
            more = job.published - 1 > sent
            job = await self._next(job, _WAIT if not more else 0 if sent == stop else _LATE)
            if job.phase is Phase.SUSPENDED:
                if resumed:
                    raise PartialLost(f"job {job.id} is suspended again")
                resumed = True
                await resume(job)
        reader = await self._artifacts.open(job.id, job.fence)
        if reader is None:
            raise PartialLost(f"the file of job {job.id} is gone")
        last, size = None, reader.artifact.size
        async with aclosing(of_reader(reader, sent, size)) as rest:
            async for piece in rest:
                digest.update(piece)
                sent += len(piece)
                if sent == size:
                    last = piece
                    break
                yield piece
        if sent != size or digest.digest() != reader.artifact.sha256:
            raise PartialLost(f"the file of job {job.id} is not the one that was followed")
        if last is not None:
            yield last

    async def _growing(self, job: Job, start: int, stop: int) -> Pieces:
        """The published bytes [start, stop). Fewer or none if they cannot be read now: the volume
        does not show them yet, or another replica has taken the file over.
        """
        if start >= stop:
            return
        try:
            file = await self._published.open_published(job.id, job.fence, job.published)
            if file is not None:
                async with aclosing(of_reader(file, start, stop)) as pieces:
                    async for piece in pieces:
                        yield piece
        except StoreUnavailable as why:
            log.info("published bytes not read", job=job.id, reason=str(why))

    async def _next(self, job: Job, timeout: float) -> Job:
        """The job once its record has changed, or after `timeout` seconds. Raises `PartialLost` if
        the file is not continued.
        """
        found = await until_available(
            lambda: self._jobs.wait(job.id, job.version, timeout), job=job.id
        )
        if found is None or not _continues(found, job):
            raise PartialLost(f"the file of job {job.id} is not continued")
        return found


def _continues(job: Job, before: Job) -> bool:
    """Whether the bytes of the file that the job had `before` are the first ones of its file."""
    if (job.attempt, job.borrowed) != (before.attempt, before.borrowed):
        return False  # who may see a borrowed job depends on another check (CONTRACT §9)
    return job.phase not in _OVER or job.result is ResultState.AVAILABLE
