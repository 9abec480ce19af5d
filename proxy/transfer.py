"""One export, driven from its POST at U to a committed artifact (CONTRACT §3.7, §5, §10)."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from proxy.core.errors import Problem
from proxy.core.formats import sniff
from proxy.core.jobs import (
    Answer,
    Answered,
    Claimed,
    ErrorCode,
    Finalizing,
    Job,
    Received,
    Restarted,
    Succeeded,
    advance,
    encode,
)
from proxy.core.outcome import secrets
from proxy.events import Watch
from proxy.meter import Meter
from proxy.ports import (
    Artifact,
    ArtifactStore,
    JobStore,
    LengthMismatch,
    Partial,
    Response,
    StorageFull,
    StoreUnavailable,
    Upstream,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamTimedOut,
)
from proxy.replies import collect, encoding, error, facts, refusal, text, value
from proxy.runs import Dropped, JobFailed, Record, Relayed, Run, Suspended, until_available
from proxy.space import Space

log = structlog.get_logger(__name__)

_PROGRESS_INTERVAL = 1.0
_BACKOFF = (0.5, 2.0, 5.0, 15.0, 30.0)
_CONTENT_RANGE = re.compile(rb"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The times (seconds) and bounds of a transfer (CONTRACT §15 `exports`)."""

    generate_timeout: float
    stall_timeout: float
    attempts: int
    result_ttl: float


class Transfer:
    """Drives one claimed job. Raises `JobFailed`, `Suspended`, `Dropped` or `Lost`, having stored nothing of that."""

    def __init__(
        self,
        run: Run,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        upstream: Upstream,
        watch: Watch | None,
        policy: Policy,
        space: Space,
        holder: str,
        now: Callable[[], float],
    ) -> None:
        self._run = run
        self._jobs = jobs
        self._artifacts = artifacts
        self._upstream = upstream
        self._watch = watch
        self._policy = policy
        self._space = space
        self._holder = holder
        self._now = now
        self._record: Record
        self._body = b""
        self._partial: Partial
        self._first_bytes = b""
        self._format: str | None = None
        self._fruitless = 0
        self._unheard = 0.0
        self._posted = now()

    async def run(self, job: Job) -> None:
        """From Queued to Success or Warning; the partial file is gone or kept when this returns or raises."""
        try:
            await self._run_to_the_end(job)
        except StorageFull as why:
            raise JobFailed(error(ErrorCode.STORAGE_FULL, f"No room to store the file: {why}")) from why

    async def _run_to_the_end(self, job: Job) -> None:
        self._record = Record(self._jobs, job, self._now)
        self._body = await self._request_body(job)
        # the format is on record before the first bytes, which tell it, are stored: without it nothing can go on
        kept = await self._artifacts.resume(job.id) if job.answer is not None and job.format is not None else None
        resumes = kept is not None and kept.offset > 0
        self._partial = kept if kept is not None and resumes else await self._artifacts.create(job.id)
        try:
            if not resumes:
                self._bound_attempts()
            elif job.attempt == 1 and job.started is not None:
                self._posted = job.started
            await self._record.settle(Claimed(self._holder, self._partial.offset))
            self._format = self._record.job.format
            verified = await self._receive()
            await self._finish(verified)
        except (Suspended, asyncio.CancelledError):
            await self._keep()
            raise
        except BaseException:
            await self._partial.discard()
            raise

    async def _request_body(self, job: Job) -> bytes:
        body = await until_available(lambda: self._jobs.body(job.id), job=job.id)
        if body is None:
            raise JobFailed(error(ErrorCode.INTERRUPTED, "The body of the request is lost. Start the export again."))
        return body

    async def _keep(self) -> None:
        """What could not be stored any more is fetched again."""
        try:
            await asyncio.shield(self._partial.keep())
        except (StorageFull, StoreUnavailable) as why:
            log.warning("part of the file not kept", job=self._run.id, reason=str(why))

    async def _receive(self) -> bool:
        """All bytes into the partial file, over as many POSTs as it takes; True if their number is proven."""
        while True:
            response = await self._post()
            if response is None:
                continue
            try:
                if await self._take(response):
                    return response.delimited or self._answer.size is not None
            finally:
                response.close()

    @property
    def _answer(self) -> Answer:
        answer = self._record.job.answer
        assert answer is not None  # noqa: S101  # Answered precedes every use
        return answer

    async def _post(self) -> Response | None:
        """One POST of the export, from the stored offset on. None: try again. The head of the answer is accepted."""
        offset = self._partial.offset
        fields = list(self._run.fields)
        if not offset:
            self._posted = self._now()
        else:
            fields.append((b"Range", b"bytes=%d-" % offset))
        request = self._record.job.request
        self._run.asking = True
        try:
            response = await self._upstream.send(
                request.method.encode(),
                request.target.encode("latin-1"),
                fields,
                self._body,
                timeout=self._policy.generate_timeout,
                stall=self._policy.stall_timeout,
            )
        except UpstreamFailure as why:
            self._run.asking = False
            await self._no_answer(why, offset)
            return None
        self._run.asking = False
        try:
            if await (self._continues(response, offset) if offset else self._begins(response)):
                return response
        except BaseException:
            response.close()
            raise
        response.close()
        return None

    async def _no_answer(self, why: UpstreamFailure, offset: int) -> None:
        """CONTRACT §10: a POST from zero is never repeated blindly; a continuation is, in bounds."""
        if offset:
            await self._pause(why)
            return
        timed_out = isinstance(why, UpstreamTimedOut)
        self._run.unanswered = Problem("upstream-timeout" if timed_out else "upstream-unreachable", str(why))
        if self._run.attended:
            await self._drop(self._run.unanswered)
        raise JobFailed(error(_code_of(why), str(why))) from why

    async def _begins(self, response: Response) -> bool:
        """Accept the answer to a POST from zero: 200, or it is relayed or recorded."""
        if response.status != 200:
            await self._refused(response)
        if (coding := encoding(response.fields)) is not None:
            message = f"Veeam Backup for Microsoft 365 encoded the file ({coding}) although identity was asked for"
            raise JobFailed(error(ErrorCode.ERROR, message))
        size = response.length
        self._space.release(self._run.id)
        if size is not None:
            await self._space.promise(self._run.id, size)
        await self._record.settle(Answered(facts(response, self._record.job.id, size)))
        self._run.go_on()
        return True

    async def _refused(self, response: Response) -> None:
        relayed = await collect(response)
        self._run.rejection = relayed
        if self._run.attended and relayed.complete:
            await self._drop(relayed)
        if response.status == 401 and (self._run.waited or self._record.job.attempt > 1):
            raise Suspended  # the token expired since U accepted it
        target = self._record.job.request.target.encode("latin-1")
        raise JobFailed(refusal(relayed, secrets(self._run.fields, target)))

    async def _drop(self, answer: Relayed | Problem) -> None:
        """CONTRACT §3.7: the answer goes to the waiting kick-off, and there is no job.

        A record that cannot be removed now stays, and becomes that of a failed job.
        """
        self._run.dropping = self._run.stopped = True
        try:
            await self._remove_record()
        except StoreUnavailable as why:
            log.warning("job not dropped", job=self._run.id, reason=str(why))
            self._run.go_on()
            return
        if not self._run.first.done():
            self._run.first.set_result(answer)
        raise Dropped

    async def _remove_record(self) -> None:
        current: Job | None = self._record.job
        while current is not None and not await self._jobs.remove(current):
            current = await self._jobs.get(current.id)

    async def _continues(self, response: Response, offset: int) -> bool:
        """Accept the answer to a continuation: a fitting 206, or a 200 that starts over (CONTRACT §10)."""
        if response.status == 206 and (total := self._fitting_total(response, offset)) is not None:
            await self._space.promise(self._run.id, total - offset)
            await self._record.settle(Answered(replace(self._answer, size=total)))
            return True
        if response.status == 401:
            raise Suspended
        log.info("continuation not possible, starting over", job=self._run.id, status=response.status, offset=offset)
        await self._start_over()
        return response.status == 200 and await self._begins(response)

    def _fitting_total(self, response: Response, offset: int) -> int | None:
        """The file's size, if this 206 carries the rest of the very file that was begun."""
        match = _CONTENT_RANGE.fullmatch(value(response.fields, b"content-range") or b"")
        answer = self._answer
        if match is None or int(match[1]) != offset or not offset <= int(match[2]) < int(match[3]):
            return None
        etag = text(value(response.fields, b"etag"))
        if etag is not None and answer.etag is not None and etag != answer.etag:
            return None
        if encoding(response.fields) is not None:
            return None
        total = int(match[3])
        return total if answer.size in (None, total) else None

    async def _start_over(self) -> None:
        self._bound_attempts()
        await self._partial.discard()
        self._partial = await self._artifacts.create(self._run.id)
        self._first_bytes, self._format = b"", None
        await self._record.settle(Restarted())

    def _bound_attempts(self) -> None:
        if self._record.job.attempt >= self._policy.attempts:
            message = f"No complete file after {self._policy.attempts} attempts"
            raise JobFailed(error(ErrorCode.TRUNCATED, message))

    async def _take(self, response: Response) -> bool:
        """Store the body. True at its proven end; False if it broke and can be continued."""
        begun = self._partial.offset
        try:
            await self._copy(response)
        except UpstreamFailure as why:
            if self._partial.offset > begun:
                self._fruitless, self._unheard = 0, 0.0
            await self._report(asyncio.get_running_loop().time())
            await self._pause(why)
            if self._partial.offset == 0:
                await self._start_over()
            return False
        size = self._answer.size
        if size is not None and begun < self._partial.offset < size and response.status == 206:
            return False  # a shorter range than asked for: the next POST goes on from there
        if size is not None and self._partial.offset != size:
            message = f"The file has {self._partial.offset} bytes, {size} were announced"
            raise JobFailed(error(ErrorCode.TRUNCATED, message))
        return True

    async def _copy(self, response: Response) -> None:
        time = asyncio.get_running_loop().time
        self._meter = Meter(self._partial.offset, time())
        while self._format is None and (chunk := await response.read()):
            await self._look(chunk)
            await self._store(chunk)
        async with self._reporting():
            while chunk := await response.read():
                await self._store(chunk)

    async def _store(self, chunk: bytes) -> None:
        await self._partial.write(chunk)
        await self._space.stored(self._run.id, len(chunk))

    @asynccontextmanager
    async def _reporting(self) -> AsyncIterator[None]:
        """CONTRACT §5: `bytesReceived` is at most 2 s old, also when no more bytes come."""
        reporter = asyncio.create_task(self._report_regularly())
        try:
            yield
        finally:
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_INTERVAL)
            if self._partial.offset > self._record.job.received:
                await self._report(asyncio.get_running_loop().time())

    async def _look(self, chunk: bytes) -> None:
        self._first_bytes += chunk[:16]
        self._format = sniff(self._first_bytes)
        if self._format is not None:
            await self._report(asyncio.get_running_loop().time())

    async def _report(self, moment: float) -> None:
        received = self._partial.offset
        try:
            await self._record.advance(Received(received, self._meter.update(received, moment), self._format))
        except StoreUnavailable as why:
            log.warning("progress not stored", job=self._run.id, reason=str(why))

    async def _pause(self, why: UpstreamFailure) -> None:
        """Count and wait before the next POST; CONTRACT §10 bounds those in a row that bring no new byte.

        Those that U never saw (it restarts) are bounded by the time that a transfer may stall.
        """
        log.warning("transfer interrupted", job=self._run.id, offset=self._partial.offset, reason=str(why))
        if not why.delivered and self._unheard < self._policy.stall_timeout:
            pause = _BACKOFF[min(int(self._unheard), len(_BACKOFF) - 1)]
            self._unheard += pause
            await asyncio.sleep(pause)
            return
        self._fruitless += 1
        if self._fruitless > self._policy.attempts:
            code = ErrorCode.TIMEOUT if isinstance(why, UpstreamTimedOut) else ErrorCode.TRUNCATED
            raise JobFailed(error(code, f"The transfer broke {self._fruitless} times without progress: {why}"))
        await asyncio.sleep(_BACKOFF[min(self._fruitless, len(_BACKOFF)) - 1])

    async def _finish(self, verified: bool) -> None:
        self._format = self._format or "Other"
        size = self._partial.offset
        job = await self._record.settle(Finalizing(size))
        warning = not verified or await self._warned(job)

        def succeeded(artifact: Artifact) -> Succeeded:
            digest = base64.b64encode(artifact.sha256).decode()
            return Succeeded(size, digest, self._now() + self._policy.result_ttl, self._format, warning)

        def memo(artifact: Artifact) -> bytes:
            return encode(advance(job, succeeded(artifact), self._now()))

        try:
            artifact = await self._partial.commit(size, memo)
        except LengthMismatch as why:
            raise JobFailed(error(ErrorCode.TRUNCATED, str(why))) from why
        # `Lost` if the caller ended the job meanwhile: the runner removes the file, if the record does not promise it
        await self._record.settle(succeeded(artifact))

    async def _warned(self, job: Job) -> bool:
        return self._watch is not None and await self._watch.warns(job, self._run.fields, self._posted)


def _code_of(why: UpstreamFailure) -> ErrorCode:
    """CONTRACT §5: an answer that is no HTTP was an answer nevertheless."""
    if isinstance(why, UpstreamTimedOut):
        return ErrorCode.TIMEOUT
    return ErrorCode.ERROR if isinstance(why, UpstreamBroken) else ErrorCode.UNREACHABLE
