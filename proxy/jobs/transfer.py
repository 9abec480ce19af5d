"""One export, driven from its POST at VB365 to a committed artifact (CONTRACT §3.7, §5, §10)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from proxy.core.events import Answered, Claimed, Finalizing, Restarted, Succeeded
from proxy.core.exports import verb
from proxy.core.http.fields import value_of
from proxy.core.job import ErrorCode, FileFacts, Job, JobError, Phase
from proxy.core.job_codec import encode
from proxy.core.transitions import advance
from proxy.jobs.continuation import Continuation, Part
from proxy.jobs.export_request import ExportRequest
from proxy.jobs.followers import Reply
from proxy.jobs.lease import PartialFiles
from proxy.jobs.outcome import encoding, error, facts, not_stored
from proxy.jobs.reception import Reception, Surplus
from proxy.jobs.record import Lost, Record, until_available
from proxy.jobs.reservations import Reservations
from proxy.jobs.retries import Retries
from proxy.jobs.run import JobFailed, Run, Suspended
from proxy.ports import (
    Artifact,
    Field,
    JobStore,
    LengthMismatch,
    PartialLost,
    Response,
    StorageFull,
    Upstream,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamTimedOut,
    UpstreamUnreachable,
)
from proxy.ports.tracing import NoTracing, Traced, Tracing
from proxy.upstream.session_events import SessionEvents

log = structlog.get_logger(__name__)

#: Responses of a server, or of a gateway before it, that is busy or restarts.
_AWAY = (429, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The times (seconds) and bounds of a transfer (CONTRACT §15 `exports`)."""

    generate_timeout: float
    stall_timeout: float
    attempts: int
    result_ttl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFactory:
    """Makes the transfers of one runner, which `holder` names in the records. `now` is the wall
    clock.
    """

    jobs: JobStore
    artifacts: PartialFiles
    upstream: Upstream
    watch: SessionEvents | None
    policy: Policy
    holder: str
    now: Callable[[], float]
    tracing: Tracing = field(default_factory=NoTracing)

    def create(self, run: Run, space: Reservations) -> Transfer:
        """Create a transfer of the run's job. It does nothing before `run`."""
        return Transfer(run, space, self)


class Transfer:
    """Drives one claimed job. Raises `JobFailed`, `Suspended`, `Dropped` or `Lost`, having stored
    nothing of that.
    """

    def __init__(self, run: Run, space: Reservations, needs: TransferFactory) -> None:
        self._run = run
        self._space = space
        self._jobs = needs.jobs
        self._artifacts = needs.artifacts
        self._upstream = needs.upstream
        self._watch = needs.watch
        self._policy = needs.policy
        self._holder = needs.holder
        self._now = needs.now
        self._tracing = needs.tracing
        self._record: Record
        self._request: ExportRequest
        self._file: Reception
        self._posted = self._now()
        self._retries = Retries(
            run.id, attempts=self._policy.attempts, stall_timeout=self._policy.stall_timeout
        )

    async def run(self, job: Job) -> None:
        """Drive the job from Queued, or Generating if it was stored with a slot, to Success or
        Warning. Afterwards the partial file is committed, kept or removed.
        """
        facts = {"vb365.job.id": job.id, "vb365.export": verb(job.request.title)}
        with self._tracing.span(Traced.EXPORT, self._run.fields, facts) as span:
            self._run.fields = span.fields(self._run.fields)
            try:
                await self._store(job)
            except JobFailed as why:
                span.fail(why.error.code.value, why.error.message)
                raise
            span.set("vb365.bytes", self._file.offset)

    async def _store(self, job: Job) -> None:
        """As `run`, without a span."""
        try:
            await self._drive(job)
        except (StorageFull, PartialLost, LengthMismatch) as why:
            log.warning("file not stored", job=self._run.id, reason=str(why))
            raise JobFailed(not_stored(why)) from why

    async def _drive(self, job: Job) -> None:
        self._record = Record(self._jobs, job, self._now)
        self._request = ExportRequest(
            self._run,
            self._record,
            await self._request_body(job),
            jobs=self._jobs,
            upstream=self._upstream,
            timeout=self._policy.generate_timeout,
            stall=self._policy.stall_timeout,
        )
        self._file = Reception(self._record, self._artifacts, self._space)
        early = self._request.begin_early()
        try:
            await self._file.open(wait=not early)
            if job.phase is Phase.QUEUED:
                if not self._file.offset:
                    last = "The export was interrupted, and that was the last of its attempts"
                    message = f"{last} ({self._policy.attempts}). Start it again."
                    self._bound_attempts(job, error(ErrorCode.INTERRUPTED, message))
                elif job.attempt == 1 and job.started is not None:
                    self._posted = job.started
                await self._record.settle(Claimed(self._holder, self._file.offset))
            verified = await self._receive()
            await self._finish(verified)
        except (Suspended, Lost, MemoryError, asyncio.CancelledError):
            # of a lost job the next holder may need the bytes, otherwise the runner removes them
            await self._file.keep()
            raise
        except BaseException:
            await self._file.discard()
            raise
        finally:
            self._request.give_up()

    async def _request_body(self, job: Job) -> bytes:
        if self._run.body is not None:
            return self._run.body
        body = await until_available(lambda: self._jobs.body(job.id), job=job.id)
        if body is None:
            message = "The body of the request is lost. Start the export again."
            raise JobFailed(error(ErrorCode.INTERRUPTED, message))
        return body

    async def _receive(self) -> bool:
        """Store all bytes, with as many POSTs as necessary. Returns whether their number is
        proven.
        """
        if self._file.offset and self._file.offset == self._file_facts.size:
            # interrupted between the last byte and the commit: nothing to request from VB365
            await self._continued(self._file.offset)
            return True
        while True:
            if self._file.offset:
                done = await self._continue()
            else:
                done = await self._begin()
            if done is not None:
                return done

    @property
    def _file_facts(self) -> FileFacts:
        facts = self._record.job.file
        assert facts is not None  # noqa: S101  # Answered precedes every use
        return facts

    async def _begin(self) -> bool | None:
        """Send one POST from zero. Returns whether the number of bytes is proven if all are stored,
        None if another POST must follow.
        """
        self._posted = self._now()
        response = await self._post([])
        if response is None:
            return None
        try:
            await self._accept(response)
            return await self._take(response)
        finally:
            self._close(response)

    async def _continue(self) -> bool | None:
        """Send one POST for the rest of the file. Returns what `_begin` does (CONTRACT §10).

        A 206 continues the file if it is proven to carry the rest of the same file; a 200 is a new
        attempt, unless its Content-Range says that it is a part.
        """
        wanted = await Continuation.of(self._file_facts, self._file.offset, self._file.read)
        if wanted is None:
            await self._start_over("no stored bytes can prove which file a response continues")
            return None
        response = await self._post(wanted.fields)
        if response is None:
            return None
        try:
            part = wanted.part(response)
            if part is not None:
                return await self._take_part(response, wanted, part)
            if wanted.is_whole(response):
                await self._continued(wanted.stored)
                return True
            if response.status == 401:
                raise Suspended(continued=True)
            await self._start_over(f"the response {response.status} does not continue the file")
            if response.status != 200 or value_of(response.fields, b"content-range") is not None:
                return None
            await self._accept(response)
            return await self._take(response)
        finally:
            self._close(response)

    async def _take_part(self, response: Response, wanted: Continuation, part: Part) -> bool | None:
        """Store the body of a matching 206 if its first bytes equal the stored ones."""
        overlap = await self._file.read(part.start, wanted.stored)
        try:
            rest = await wanted.rest(response, overlap)
        except UpstreamFailure as why:
            await self._pause(why)
            return None
        if rest is None:
            await self._start_over("the stored bytes belong to another file")
            return None
        await self._file.promise(part.total - self._file.offset)
        await self._continued(part.total)
        return await self._take(response, rest, part)

    async def _continued(self, size: int) -> None:
        """Record that the stored bytes are of the file, which has `size` bytes."""
        self._replied(Reply.stored(self._file_facts))
        await self._record.settle(Answered(replace(self._file_facts, size=size)))

    async def _post(self, more: list[Field]) -> Response | None:
        """Send the export with the additional fields `more`. Returns None if there was no response,
        or one that says nothing about the stored bytes, and another POST may follow.
        """
        try:
            response = await until_available(lambda: self._request.send(more), job=self._run.id)
        except UpstreamFailure as why:
            if not self._file.offset:
                raise await self._request.no_response(why) from why
            await self._pause(why)
            return None
        if not self._file.offset or response.status not in _AWAY:
            return response
        response.close()
        message = f"Veeam Backup for Microsoft 365 answered {response.status}"
        if response.status == 504:  # a gateway has sent the request to VB365
            await self._pause(UpstreamTimedOut(message, delivered=True))
        else:
            await self._pause(UpstreamUnreachable(message, delivered=False))
        return None

    async def _accept(self, response: Response) -> None:
        """Record the head of a 200. Raises for any other response, which is relayed or recorded."""
        if response.status != 200:
            raise await self._request.refused(response)
        if (coding := encoding(response.fields)) is not None:
            self._request.hand_over(response)
            message = (
                f"Veeam Backup for Microsoft 365 encoded the file ({coding}) although "
                "identity was asked for"
            )
            raise JobFailed(error(ErrorCode.ERROR, message))
        size = response.length
        self._space.release(self._run.id)
        try:
            await self._file.ready()
            if size is not None:
                await self._file.promise(size)
        except StorageFull:
            self._request.hand_over(response)
            raise
        self._replied(Reply(response.reason, response.lines))
        rescued = self._run.followers is not None
        await self._record.settle(Answered(facts(response, size, repeatable=rescued)))
        self._run.attendance.close()

    def _replied(self, reply: Reply | None) -> None:
        """Let the followers of a rescued export have the head of VB365's 200, None when the export
        starts again from zero. From now on the job is kept.
        """
        if self._run.followers is not None:
            self._run.followers.replied(reply, restarted=self._record.job.attempt > 1)
            if reply is not None:
                self._run.attendance.close()

    def _close(self, response: Response) -> None:
        if self._run.followers is None or not self._run.followers.has(response):
            response.close()

    async def _start_over(self, reason: str) -> None:
        log.info("starting over", job=self._run.id, offset=self._file.offset, reason=reason)
        message = f"No complete file after {self._policy.attempts} attempts"
        self._bound_attempts(self._record.job, error(ErrorCode.TRUNCATED, message))
        self._replied(None)
        await self._file.restart()
        await self._record.settle(Restarted())

    def _bound_attempts(self, job: Job, failure: JobError) -> None:
        if job.attempt >= self._policy.attempts:
            raise JobFailed(failure)

    async def _take(
        self, response: Response, rest: bytes = b"", part: Part | None = None
    ) -> bool | None:
        """Store the body, of which `rest` has already been read. `part` is the part of the file
        that it carries, None for all of it.
        """
        before = self._file.offset
        stop = self._file_facts.size if part is None else part.stop
        try:
            await self._file.copy(response, rest, stop)
        except Surplus:
            await self._start_over("the response has more bytes than it announces")
            return None
        except UpstreamFailure as why:
            progress = self._retries.progress(before, self._file.offset)
            await self._file.report()
            await self._pause(why, progress=progress)
            if not self._file.offset:
                await self._start_over("no byte is stored")
            return None
        size, offset = self._file_facts.size, self._file.offset
        if part is not None and offset < part.total:
            # a shorter range than requested: the next POST continues from there
            if not self._retries.progress(before, self._file.offset):
                await self._pause(UpstreamBroken("the response has no new byte", delivered=True))
            return None
        if size is not None and offset != size:
            message = f"The file has {offset} bytes instead of the announced {size}"
            raise JobFailed(error(ErrorCode.TRUNCATED, message))
        return response.delimited or size is not None

    async def _pause(self, why: UpstreamFailure, *, progress: bool = False) -> None:
        await self._retries.pause(why, self._file.offset, progress=progress)

    async def _finish(self, verified: bool) -> None:
        kind = self._file.format or "Other"
        size = self._file.offset
        job = await self._record.settle(Finalizing(size))
        warning = not verified or await self._warned(job)

        def succeeded(artifact: Artifact) -> Succeeded:
            digest = base64.b64encode(artifact.sha256).decode()
            return Succeeded(size, digest, self._now() + self._policy.result_ttl, kind, warning)

        def record_copy(artifact: Artifact) -> bytes:
            return encode(advance(job, succeeded(artifact), self._now()))

        artifact = await until_available(
            lambda: self._file.partial.commit(size, record_copy), job=job.id
        )
        # raises `Lost` if the caller ended the job meanwhile: then the runner removes the file
        # unless the record still promises it
        await self._record.settle(succeeded(artifact))

    async def _warned(self, job: Job) -> bool:
        return self._watch is not None and await self._watch.warns(
            job, self._run.fields, self._posted
        )
