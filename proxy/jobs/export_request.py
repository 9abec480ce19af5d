"""The requests of one job to VB365, and what its other responses than 200 mean (CONTRACT §3.7)."""

from __future__ import annotations

import asyncio

from proxy.core.errors import Problem
from proxy.core.job import Job
from proxy.core.outcome import secrets
from proxy.jobs import events
from proxy.jobs.outcome import code_of, error, refusal
from proxy.jobs.record import Record, until_available
from proxy.jobs.run import Dropped, JobFailed, Run, Suspended, Work
from proxy.ports import (
    Field,
    JobStore,
    Response,
    ResponseLost,
    Upstream,
    UpstreamFailure,
    UpstreamTimedOut,
    WholeResponse,
)
from proxy.upstream.whole_response import read_whole

#: Bytes of a response other than 200 that are relayed or recorded; VB365 sends a few hundred.
_RESPONSE_LIMIT = 16 * 1024 * 1024


class ExportRequest:
    """Sends the request of a job. `timeout` and `stall` are in seconds; see `Sender.send`.

    A kick-off that waits for VB365's first response gets any but a 200 in place of a job: then
    `Dropped` is the exception that `no_response` and `refused` return.
    """

    def __init__(
        self,
        run: Run,
        record: Record,
        body: bytes,
        *,
        jobs: JobStore,
        upstream: Upstream,
        timeout: float,
        stall: float,
    ) -> None:
        self._run = run
        self._record = record
        self._body = body
        self._jobs = jobs
        self._upstream = upstream
        self._timeout = timeout
        self._stall = stall
        self._early: asyncio.Task[Response] | None = None

    def begin_early(self) -> bool:
        """Send the first request of a job that was stored with a slot, while the file is being
        created. The next `send` returns the response. Return False for other jobs.
        """
        if self._run.body is None:
            return False
        self._run.body = None
        self._early = asyncio.create_task(self._send([]))
        return True

    def give_up(self) -> None:
        """Close the connection of a request that was sent early and is not needed. Idempotent."""
        early, self._early = self._early, None
        if early is not None:
            early.add_done_callback(_close)
            early.cancel()

    async def send(self, more: list[Field]) -> Response:
        """Send the request with the additional fields `more`. Raises `UpstreamFailure`."""
        if self._early is None:
            return await self._send(more)
        await asyncio.wait([self._early])
        early, self._early = self._early, None
        try:
            return early.result()
        finally:
            # its exception refers to this frame: as in `Tasks.undivided`
            del early

    async def _send(self, more: list[Field]) -> Response:
        request = self._record.job.request
        prepared, self._run.prepared = self._run.prepared, None
        sender = self._upstream if prepared is None else prepared
        self._run.posting = True
        try:
            response = await sender.send(
                request.method.encode(),
                request.target.encode("latin-1"),
                [*self._run.fields, *more],
                self._body,
                timeout=self._timeout,
                stall=self._stall,
            )
        except UpstreamFailure:
            self._run.posting = False
            raise
        finally:
            if prepared is not None:
                prepared.close()
        self._run.posting = False
        return response

    async def no_response(self, why: UpstreamFailure) -> Exception:
        """Return the exception that ends the run: a POST from zero is not repeated (CONTRACT
        §10).
        """
        if isinstance(why, ResponseLost):
            return MemoryError()
        timed_out = isinstance(why, UpstreamTimedOut)
        self._run.unanswered = Problem(
            "upstream-timeout" if timed_out else "upstream-unreachable", str(why)
        )
        if self._run.attendance.waiting and await self._drop(self._run.unanswered):
            return Dropped()
        return JobFailed(error(code_of(why), str(why)))

    async def refused(self, response: Response) -> Exception:
        """Return the exception that ends the run after this response, which is read."""
        relayed = await read_whole(response, _RESPONSE_LIMIT)
        self._run.rejection = relayed
        waiting = self._run.attendance.waiting
        if waiting and relayed.complete and await self._drop(relayed):
            return Dropped()
        if waiting and len(relayed.body) > _RESPONSE_LIMIT:
            self.hand_over(response, relayed.body)
        continued = self._record.job.attempt > 1
        target = self._record.job.request.target.encode("latin-1")
        failure = refusal(relayed, secrets(self._run.fields, target))
        if response.status == 401 and (self._run.queued or self._run.resumed or continued):
            # the token has expired since VB365 accepted it
            return Suspended(continued=continued, failure=failure)
        return JobFailed(failure)

    def hand_over(self, response: Response, first: bytes = b"") -> None:
        """Give a response that cannot be stored to a follower of a rescued export (CONTRACT §14).
        `first` are the bytes of its body that have been read.
        """
        followers, attendance = self._run.followers, self._run.attendance
        if followers is not None and attendance.waiting and followers.hand_over(response, first):
            attendance.close()

    async def _drop(self, response: WholeResponse | Problem) -> bool:
        """Give the response to the waiting kick-off in place of a job (CONTRACT §3.7).

        While the store is unavailable the removal is repeated: it may have removed the record and
        failed to confirm it. The result is False if another replica has shown the job.
        """
        self._run.attendance.decide(response)
        self._run.work = Work.SETTLING
        if not await until_available(self._remove_record, job=self._run.id):
            self._run.attendance.withdraw()
            return False
        events.dropped(self._record.job, response.status)
        self._run.attendance.deliver()
        return True

    async def _remove_record(self) -> bool:
        """Remove the record. Return False if another replica has shown the job meanwhile."""
        attended = self._record.job.attended
        current: Job | None = self._record.job
        while current is not None and not await self._jobs.remove(current):
            current = await self._jobs.get(current.id)
            if attended and current is not None and not current.attended:
                return False
        return True


def _close(early: asyncio.Task[Response]) -> None:
    if not early.cancelled() and early.exception() is None:
        early.result().close()
