"""Records which rescued files were delivered: after a whole delivery the same request is a new
export (CONTRACT §14).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog

from proxy.core.events import Delivered, Detached
from proxy.core.job import Job
from proxy.jobs import events
from proxy.jobs.record import advance_for_caller, until_available
from proxy.jobs.tasks import Spawn
from proxy.ports import JobStore, StoreUnavailable
from proxy.ports.counts import FileCounts

log = structlog.get_logger(__name__)

#: Seconds to wait for a job whose last byte was delivered to be recorded as finished, and for the
#: store.
_COMMIT = 600.0
#: Seconds that an identical request waits for the record of a delivery.
_PATIENCE = 2.0


class RescueDelivery:
    """One response with bytes of a job's file. `whole`: it is all of the file."""

    def __init__(self, deliveries: RescueDeliveries, id: str, status: int, *, whole: bool) -> None:
        self._deliveries = deliveries
        self.id = id
        self.status = status
        self.whole = whole
        self.sent = 0
        self.began = time.monotonic()

    def ended(self, received: bool) -> None:  # the only argument of a callback
        """Record it. `received`: the client has got all of the response."""
        self._deliveries.record(self, whole=self.whole and received)


class RescueDeliveries:
    """The responses of rescued exports. What was sent is recorded by `jobs.deliveries.Deliveries`,
    but for whole files: they are recorded here, as soon as their job has ended.

    `spawn` runs work in the background, `note` records a delivery later, `counts` counts the
    bytes that are sent; `now` returns Unix seconds.
    """

    def __init__(
        self,
        jobs: JobStore,
        *,
        spawn: Spawn,
        note: Callable[[str, Delivered], None],
        counts: FileCounts,
        now: Callable[[], float],
    ) -> None:
        self.counts = counts
        self._jobs = jobs
        self._now = now
        self._spawn = spawn
        self._note = note
        #: Several whole deliveries of one file may end at the same moment.
        self._detaching: dict[str, set[asyncio.Task[None]]] = {}

    def begin(self, id: str, status: int, *, whole: bool) -> RescueDelivery:
        """A response with this status has begun."""
        return RescueDelivery(self, id, status, whole=whole)

    def record(self, delivery: RescueDelivery, *, whole: bool) -> None:
        """Record a response that has ended: a whole one as soon as its job has. Until then the job
        is detached: the same request does not wait for its end.
        """
        if not whole:
            self._note(delivery.id, Delivered(sent=delivery.sent, whole=False))
            return
        task = self._spawn(self._detach(delivery.id))
        self._detaching.setdefault(delivery.id, set()).add(task)
        task.add_done_callback(partial(self._detach_ended, delivery.id))
        self._spawn(self._record(delivery))

    def _detach_ended(self, id: str, task: asyncio.Task[None]) -> None:
        self._detaching[id].remove(task)
        if not self._detaching[id]:
            del self._detaching[id]

    async def detached(self, id: str) -> bool:
        """Wait until a job whose file was delivered whole is detached. Return whether it was not
        yet. Raises `StoreUnavailable` if that takes too long.
        """
        detaching = self._detaching.get(id)
        if detaching is None:
            return False
        _, waiting = await asyncio.wait([*detaching], timeout=_PATIENCE)
        if waiting:
            raise StoreUnavailable("the delivery of its file is not recorded yet")
        return True

    async def _detach(self, id: str) -> None:
        """Detach the job, once the store is available: otherwise the same request would get its
        file again.
        """
        await until_available(
            lambda: advance_for_caller(self._jobs, id, Detached(), self._now), job=id
        )

    async def _record(self, delivery: RescueDelivery) -> None:
        seconds = time.monotonic() - delivery.began
        try:
            async with asyncio.timeout(_COMMIT):
                job = await until_available(lambda: self._ended(delivery.id), job=delivery.id)
                if job is None:
                    return
                event = Delivered(sent=delivery.sent, whole=True)
                job = await until_available(
                    lambda: advance_for_caller(self._jobs, delivery.id, event, self._now),
                    job=delivery.id,
                )
        except TimeoutError:
            log.warning("delivery not recorded", job=delivery.id)
            return
        if job is not None:
            status, sent = delivery.status, delivery.sent
            events.delivered(job, status=status, sent=sent, whole=True, seconds=seconds)

    async def _ended(self, id: str) -> Job | None:
        """The job once it has ended, None if it is deleted."""
        job = await self._jobs.get(id)
        while job is not None and not job.terminal:
            job = await self._jobs.wait(job.id, job.version, _COMMIT)
        return job
