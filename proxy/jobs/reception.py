"""The file of a running job while it is received: its bytes, format, space and progress.

Theory of operation. Only a 200 of VB365 needs the file: any other response is the outcome of the
job whatever the disk does. A new file whose request has already been sent is created in the
background (`open` without `wait`, `restart`), and `ready` waits for it when the 200 has arrived. A
file that was not created by then for lack of space is tried again: that may be hours later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from proxy.core.events import Received
from proxy.core.formats import sniff
from proxy.core.job import Origin
from proxy.jobs.lease import PartialFiles
from proxy.jobs.meter import Meter
from proxy.jobs.record import Record, until_available
from proxy.jobs.reservations import Reservations
from proxy.ports import (
    Fillable,
    Partial,
    Response,
    Source,
    Sourced,
    StorageFull,
    StorageRefused,
    StoreUnavailable,
)

log = structlog.get_logger(__name__)

#: Seconds between two reports, and how long before them what is received is synced.
_PROGRESS_INTERVAL, _SYNC_TIME = 1.0, 0.2


class Surplus(Exception):
    """The body has more bytes than the head of the response announces."""


class Reception:
    """Stores the bytes that VB365 sends for one job. While the store is unavailable, nothing is
    read from VB365. Raises `StorageFull` and `PartialLost`. Call `open` first.
    """

    def __init__(self, record: Record, artifacts: PartialFiles, space: Reservations) -> None:
        self._record = record
        self._artifacts = artifacts
        self._space = space
        self._id = record.job.id
        self._first_bytes = b""
        #: Bytes that other replicas can read, as last reported.
        self._published = 0
        self._partial: Partial | None = None
        #: Creates it in the background.
        self._creating: asyncio.Task[Partial] | None = None
        #: The last call of the store for that: it is not cancelled, which would leave a file.
        self._call: asyncio.Task[Partial] | None = None
        #: Detected by the first bytes; None while there are too few.
        self.format: str | None = None

    @property
    def offset(self) -> int:
        """Bytes accepted so far."""
        return 0 if self._partial is None else self._partial.offset

    @property
    def partial(self) -> Partial:
        """The file, which is open."""
        assert self._partial is not None  # noqa: S101  # `ready` precedes every use
        return self._partial

    async def open(self, *, wait: bool) -> None:
        """Resume the file that an earlier run has kept, or create one. Without `wait` the new one
        is created in the background.

        A file whose format is not recorded is not resumed: its first bytes have only just arrived.
        """
        job = self._record.job
        kept = None
        if job.file is not None and job.format is not None:
            kept = await until_available(self._resume, job=job.id)
        if kept is not None:
            self._partial = kept
            self.format = job.format if kept.offset else None
            return
        self._creating = asyncio.create_task(self._create())
        if wait:
            await self.ready(again=False)

    async def _resume(self) -> Partial | None:
        """Resume the file. If there is no space for that now, for example for a copy of it, its
        bytes are worth waiting for.
        """
        job = self._record.job
        try:
            return await self._artifacts.resume(job.id, job.fence)
        except StorageRefused:
            raise
        except StorageFull as why:
            raise StoreUnavailable(str(why)) from why

    async def _create(self) -> Partial:
        return await until_available(self._create_once, job=self._id)

    async def _create_once(self) -> Partial:
        self._call = asyncio.create_task(self._artifacts.create(self._id, self._record.job.fence))
        return await asyncio.shield(self._call)

    async def ready(self, *, again: bool = True) -> None:
        """Wait until the file is created. If there was no space for it, try `again`."""
        if self._creating is None:
            return
        await asyncio.wait([self._creating])
        creating, self._creating = self._creating, None
        try:
            self._partial = creating.result()
        except StorageFull:
            if not again:
                raise
            self._partial = await self._create()

    async def _stop_creating(self) -> None:
        if self._creating is not None:
            self._creating.cancel()
            await asyncio.gather(self._creating, return_exceptions=True)
            self._creating = None
        if self._partial is None and self._call is not None:
            await asyncio.wait([self._call])
            if not self._call.cancelled() and self._call.exception() is None:
                self._partial = self._call.result()

    async def restart(self) -> None:
        """Remove all bytes and start from zero."""
        await until_available(lambda: self.partial.discard(), job=self._id)
        self._partial = self._call = None
        self._creating = asyncio.create_task(self._create())
        self._first_bytes, self.format, self._published = b"", None, 0

    async def discard(self) -> None:
        """Remove all bytes. The sweeper removes what cannot be removed now."""
        await self._stop_creating()
        try:
            if self._partial is not None:
                await self._partial.discard()
        except StoreUnavailable as why:
            log.warning("partial file not removed", job=self._id, reason=str(why))

    async def keep(self) -> None:
        """Stop, and keep what is stored. The rest is requested again later."""
        await asyncio.shield(asyncio.ensure_future(self._keep()))

    async def _keep(self) -> None:
        await self._stop_creating()
        try:
            if self._partial is not None:
                await self._partial.keep()
        except (StorageFull, StoreUnavailable) as why:
            log.warning("part of the file not kept", job=self._id, reason=str(why))

    async def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of those accepted."""
        return await until_available(lambda: self.partial.read(start, stop), job=self._id)

    async def promise(self, size: int) -> None:
        """Reserve space for `size` more bytes."""
        await until_available(lambda: self._space.promise(self._id, size), job=self._id)

    async def copy(self, response: Response, first: bytes = b"", stop: int | None = None) -> None:
        """Store the body to its end. Its beginning, `first`, has already been read.

        Raises `UpstreamFailure`, and `Surplus` for a chunk that extends beyond the offset `stop`,
        which is not stored.
        """
        self._meter = Meter(self.offset, _time())
        if first:
            await self._store(first, stop)
            await self._detect_format(first)
        while self.format is None and (chunk := await response.read()):
            await self._store(chunk, stop)  # first: those who follow the file wait for it
            await self._detect_format(chunk)
        async with self._reporting():
            while chunk := await response.read():
                await self._store(chunk, stop)
                # a body with a Content-Length has no surplus: it was compared with `stop`
                if stop is None or response.length is not None:
                    await self._fill(response)

    async def _detect_format(self, chunk: bytes) -> None:
        if self.format is None:
            self._first_bytes += chunk[:16]
            self.format = sniff(self._first_bytes)
            if self.format is not None:
                await self.report()

    async def _store(self, chunk: bytes, stop: int | None) -> None:
        if stop is not None and self.offset + len(chunk) > stop:
            raise Surplus
        await until_available(lambda: self.partial.write(chunk), job=self._id)
        try:
            await self._space.stored(self._id, len(chunk))
        except StoreUnavailable:
            await until_available(self._space.check, job=self._id)

    async def _fill(self, response: Response) -> None:
        """Let a thread store what arrives quickly, if response and file can do that."""
        partial = self.partial
        if not (isinstance(response, Sourced) and isinstance(partial, Fillable)):
            return
        with response.source() as source:
            while source is not None and await self._filled(partial, source):
                pass

    async def _filled(self, partial: Fillable, source: Source) -> bool:
        """Store what the source has now. Return whether it may have more."""
        before = self.offset
        try:
            more = await until_available(lambda: partial.fill(source), job=self._id)
        finally:
            self._space.count(self._id, self.offset - before)
        if self._space.overdrawn(self._id):
            await until_available(self._space.check, job=self._id)
        return more

    @asynccontextmanager
    async def _reporting(self) -> AsyncIterator[None]:
        """Report regularly: `bytesReceived` is at most 2 s old, even while VB365 pauses (CONTRACT
        §5).
        """
        reporter = asyncio.create_task(self._report_regularly())
        try:
            yield
        finally:
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)

    async def _report_regularly(self) -> None:
        while True:
            try:
                await self._report_next()
            except MemoryError:  # the next report has it; this may have been before any wait
                await asyncio.sleep(0)

    async def _report_next(self) -> None:
        await asyncio.sleep(_PROGRESS_INTERVAL - _SYNC_TIME)
        self._publish()
        await asyncio.sleep(_SYNC_TIME)
        self._publish()
        job = self._record.job
        if self.offset > job.received or self._published > job.published:
            await self.report()

    def _publish(self) -> None:
        """Let the clients of other replicas have what is stored, if clients follow the file."""
        if self._record.job.fence and self._record.job.origin is Origin.RESCUE:
            self._published = self.partial.publish()

    async def report(self) -> None:
        """Record the progress, if the store is available."""
        received = self.offset
        try:
            await self._record.advance(
                Received(
                    received, self._meter.update(received, _time()), self.format, self._published
                )
            )
        except StoreUnavailable as why:
            log.warning("progress not stored", job=self._id, reason=str(why))


def _time() -> float:
    return asyncio.get_running_loop().time()
