"""What the client of a rescued export gets (CONTRACT §14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from proxy.core.errors import Problem, drop_frames
from proxy.core.events import Detached
from proxy.core.http.fields import without
from proxy.core.http.heads import MalformedMessage, ResponseHead
from proxy.core.http.partial import repeated_response
from proxy.core.job import Job, Phase, ResultState, Status
from proxy.jobs.followers import Reply
from proxy.jobs.outcome import NOT_REPEATED, concerns, repeated
from proxy.jobs.record import advance_for_caller
from proxy.jobs.run import Run
from proxy.jobs.runner import Runner
from proxy.ports import (
    ArtifactStore,
    Followable,
    JobStore,
    PartialLost,
    StoreUnavailable,
    WholeResponse,
)
from proxy.rescue.call import (
    BROKEN,
    RELAYED,
    Call,
    Growing,
    Handed,
    Outcome,
    Stored,
    StoredElsewhere,
)
from proxy.rescue.elsewhere import Elsewhere
from proxy.rescue.joining import Joining, NotRescued

log = structlog.get_logger(__name__)

#: How often a request looks for another job, if the one it has joined vanishes or is suspended.
_ROUNDS = 4
#: Seconds of one wait for a job that another replica runs.
_WAIT = 30.0


class Following:
    """Finds the outcome of each request. `followable` is None if files cannot be followed,
    `elsewhere` if those of other replicas cannot. `now` returns Unix seconds.
    """

    def __init__(
        self,
        joining: Joining,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        followable: Followable | None,
        elsewhere: Elsewhere | None,
        runner: Runner,
        now: Callable[[], float],
    ) -> None:
        self._joining = joining
        self._jobs = jobs
        self._artifacts = artifacts
        self._followable = followable
        self._files = elsewhere
        self._runner = runner
        self._now = now

    async def outcome(self, call: Call) -> Outcome:
        """Wait for what the client gets. It is RELAYED in all cases in which VB365 would have
        served the request and the proxy cannot.
        """
        try:
            for _ in range(_ROUNDS):
                job, started = await self._joining.job(call)
                found = await self._follow(call, job, started=started)
                if found is not None:
                    return found
        except NotRescued:
            pass
        except (Problem, StoreUnavailable) as why:
            drop_frames(why)
            log.info("export not rescued", reason=str(why))
        return RELAYED

    async def _follow(self, call: Call, job: Job, *, started: bool) -> Outcome | None:
        """The outcome of a request that has joined the job. None if another job must be found."""
        while True:
            run = self._runner.run_of(job.id)
            if run is not None and _is_borrowed(run, job):
                return None
            if run is not None and run.followers is not None:
                found = await self._of_run(call, run, job, started=started)
                if found is not None:
                    return found
                started = False  # a later run has the request of another call
            current = await self._jobs.get(job.id)
            if current is None or current.phase is Phase.SUSPENDED or _is_borrowed(current, job):
                return None
            if current.terminal or current.phase is Phase.CANCELLING:
                return await self._of_record(current)
            if self._runner.withdrawal.removes(job.id):
                return RELAYED  # as its other requests; the store may take its time
            if self._runner.run_of(job.id) is None:
                # another replica runs it
                if (found := self._elsewhere(call, current)) is not None:
                    return found
                await self._jobs.wait(current.id, current.version, _WAIT)

    async def _of_run(self, call: Call, run: Run, job: Job, *, started: bool) -> Outcome | None:
        """The outcome of a job that runs here. None if it is in the record."""
        followers = run.followers
        assert followers is not None  # noqa: S101  # the caller has looked
        followers.count += 1
        try:
            verdict = await run.attendance.verdict_of_all()
            if verdict is not None:
                # a request that came later is a new try
                if call.began <= run.attendance.decided and (
                    started or concerns(verdict, run, call.credentials)
                ):
                    return _for_client(verdict, started=started)
                await followers.finished()
                return None
            await followers.answered()
            handed = followers.handed
            if (
                handed is not None
                and not call.ranged
                and (started or concerns(handed.response, run, call.credentials))
            ):
                lines = handed.response.lines
                return Handed(handed, lines if started else without(lines, NOT_REPEATED))
            reply = followers.reply
            if reply is not None:
                growing = self._growing(call, run, job, reply, started=started)
                if growing is not None:
                    return growing
            await followers.finished()
        finally:
            followers.count -= 1
        if followers.withdrawn or followers.handed is not None:
            return RELAYED
        refusal = run.refusal
        if refusal is None or not (started or concerns(refusal, run, call.credentials)):
            return None
        return _for_client(refusal, started=started)

    def _growing(
        self, call: Call, run: Run, job: Job, reply: Reply, *, started: bool
    ) -> Growing | None:
        """The file as it grows; None if it does not, or if its size is not known and the request is
        for a part of it.
        """
        lines = reply.lines if started else without(reply.lines, NOT_REPEATED)
        head = _head(reply.reason, lines)
        if head is None or self._followable is None or (call.ranged and _size(head) is None):
            return None
        tail = self._followable.tail(job.id, run.fence)
        if tail is None:
            return None
        restarted = run.followers is not None and run.followers.restarted
        return Growing(job, head, tail, restarted)

    def _elsewhere(self, call: Call, job: Job) -> Outcome | None:
        """The file as another replica stores it; None if it cannot be followed yet, or if the
        request is for a part of it.
        """
        reply = None if job.file is None else Reply.stored(job.file)
        if self._files is None or reply is None or call.ranged or not self._files.follows(job):
            return None
        head = _head(reply.reason, reply.lines)
        if head is None:
            return None

        bodiless = replace(call, body=b"")  # its memory does not count during the response

        async def resume(suspended: Job) -> None:
            try:
                await self._joining.resume(bodiless, suspended)
            except Problem as why:
                raise PartialLost(f"job {job.id} is not resumed: {why}") from why

        return StoredElsewhere(job, head, self._files.pieces(job, resume))

    async def _of_record(self, job: Job) -> Outcome | None:
        """The outcome of a job that has ended."""
        if job.status is Status.CANCELLED or job.forgotten or job.phase is Phase.CANCELLING:
            return BROKEN
        if job.result is not ResultState.AVAILABLE:
            return RELAYED
        reply = None if job.file is None else Reply.stored(job.file)
        head = None if reply is None else _head(reply.reason, reply.lines)
        reader = None if head is None else await self._artifacts.open(job.id, job.fence)
        if head is None or reader is None:
            await advance_for_caller(self._jobs, job.id, Detached(), self._now)
            return None
        return Stored(job, head, reader)


def _is_borrowed(now: Run | Job, job: Job) -> bool:
    """Whether access depends on another check than when the request joined (CONTRACT §9)."""
    return now.borrowed and not job.borrowed


def _size(head: ResponseHead) -> int | None:
    """The announced size of the file."""
    return head.length if head.get_all(b"content-length") else None


def _head(reason: bytes, lines: bytes) -> ResponseHead | None:
    try:
        return repeated_response(reason, lines)
    except MalformedMessage:
        return None


def _for_client(found: WholeResponse | Problem, *, started: bool) -> WholeResponse | Problem:
    """What the client gets whose request has `started` the job, or joined it."""
    return found if started or isinstance(found, Problem) else repeated(found)
