"""Drives the jobs that have a slot: each transfer, its outcome, and the record of that."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import replace

import structlog

from proxy.core.events import Event, Failed, Interrupted
from proxy.core.job import Job, Phase
from proxy.jobs.conclusion import INTERNAL, Conclusion
from proxy.jobs.record import Lost, until_available
from proxy.jobs.reservations import Reservations
from proxy.jobs.run import Dropped, JobFailed, Run, Suspended, Work
from proxy.jobs.transfer import TransferFactory
from proxy.jobs.trust import Trust
from proxy.ports import JobStore

log = structlog.get_logger(__name__)

#: Bytes of a body that is not kept for a caller that VB365 has never accepted, once it has answered
#: 401. The sweeper limits the number of others.
_LARGE_BODY = 256 << 10
#: Seconds within which VB365 answers a request that it refuses whoever sends it.
_AT_ONCE = 60.0
#: Seconds until an outcome is recorded again for which there was no memory.
_RETRY = 0.5
#: Seconds until an export that found no memory is suspended: its caller may resume it at once, and
#: VB365 generates it again each time, for at most `exports.attempts` times.
_SHORTAGE = 10.0
#: The number of dropped jobs that are remembered: a list that was read before may contain them.
_REMEMBERED = 1000


class Driver:
    """Drives runs. `replica` is this process if others share the store."""

    def __init__(
        self,
        jobs: JobStore,
        transfers: TransferFactory,
        conclusion: Conclusion,
        *,
        space: Reservations,
        trust: Trust,
        replica: str | None,
    ) -> None:
        self._jobs = jobs
        self._transfers = transfers
        self._conclusion = conclusion
        self._space = space
        self._trust = trust
        self._replica = replica
        self._dropped: deque[str] = deque(maxlen=_REMEMBERED)
        self._stopping = False

    def stop(self) -> None:
        """Leave the records as they are when the runs are cancelled from now on."""
        self._stopping = True

    def note_dropped(self, id: str) -> None:
        """Note that the kick-off got a response or an error in place of the job."""
        self._dropped.append(id)

    def has_dropped(self, id: str) -> bool:
        """Whether VB365's response, or an error, went to the kick-off in place of the job (CONTRACT
        §3.7).
        """
        return id in self._dropped

    async def drive(self, run: Run) -> None:
        """Transfer the job's file, record the outcome and clean up."""
        await run.released()
        run.work = Work.DRIVING
        begun = _time()
        event = await self._outcome(run)
        # after a generation the token may have expired since VB365 accepted it
        at_once = _time() - begun < _AT_ONCE
        while not await self._settled(run, event, at_once=at_once):  # noqa: ASYNC110
            await asyncio.sleep(_RETRY)
        while run.woken:
            run.woken = False
            await self._conclusion.conclude(run.id)

    async def _outcome(self, run: Run) -> Event | None:
        """Transfer the file. Return the event that is still to be recorded."""
        try:
            await self._transfer(run)
        except asyncio.CancelledError:
            if self._stopping:
                raise
        except Dropped:
            self.note_dropped(run.id)
        except Lost:
            pass  # its caller, or another replica, has ended it
        except Suspended as why:
            # a caller whose job ran before had no 401 then; strangers cannot restart the proxy
            known = why.continued or self._trust.knows(run.fields)
            self._trust.distrust(run.fields)
            if not known and run.size > _LARGE_BODY and why.failure is not None:
                return Failed(why.failure)
            return Interrupted(denied=not known, expired=True)
        except JobFailed as why:
            return Failed(why.error, accepted=self._trust.knows(run.fields))
        except MemoryError:
            return Interrupted()
        except Exception:
            log.exception("job failed", job=run.id)
            return Failed(INTERNAL)
        finally:
            # a later cancel must not interrupt what follows; it is found in the record
            run.work = Work.SETTLING
        return None

    async def _settled(self, run: Run, event: Event | None, *, at_once: bool) -> bool:
        """Record the outcome, as nobody else does. Return False if there was no memory for that."""
        try:
            await self._record(run, await self._judged(run, event) if at_once else event)
        except MemoryError:
            return False
        return True

    async def _judged(self, run: Run, event: Event | None) -> Event | None:
        """Return the failure with what VB365 says of a caller that it has not accepted yet.

        It answers some requests before it looks at the token, as one with a wrong Host: its answer
        proves nothing about who sent them (CONTRACT §2).
        """
        if run.accepted or not isinstance(event, Failed) or event.accepted:
            return event
        if event.error.status in (None, 401):
            return event
        return replace(event, denied=await self._trust.rejects(run.fields))

    async def _transfer(self, run: Run) -> None:
        try:
            await self._transfers.create(run, self._space).run(await self._read(run))
            return
        except MemoryError:
            # a failure of the machine, of which this run may be the cause: it does not go on
            with suppress(MemoryError):
                log.exception("job suspended: there is no memory", job=run.id)
        # without the first exception, which refers to what the run has in memory
        await asyncio.sleep(_SHORTAGE)
        raise MemoryError

    async def _read(self, run: Run) -> Job:
        """Return the job as it is at the beginning of the run. Raises `Lost` if it is not the
        run's.
        """
        started, run.started = run.started, None
        if started is not None and not run.woken:
            return started  # as it was just stored
        job = await until_available(lambda: self._jobs.get(run.id), job=run.id)
        if job is None or job.phase is not (Phase.QUEUED if started is None else started.phase):
            raise Lost
        if self._replica is None:
            run.fence = job.fence
        elif (job.holder, job.fence) != (self._replica, run.fence):
            raise Lost
        return job

    async def _record(self, run: Run, event: Event | None) -> None:
        if event is None:
            await self._conclusion.conclude(run.id, driven=run)
            return
        if isinstance(event, Interrupted):
            run.work = Work.SUSPENDING
        await self._conclusion.settle(run, event)


def _time() -> float:
    return asyncio.get_running_loop().time()
