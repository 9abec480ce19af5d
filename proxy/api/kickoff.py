"""The kick-off: from an export POST to 202, in the order of CONTRACT §3."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog
from aiohttp import web

from proxy.api.download import Download
from proxy.api.request_body import RequestBodies
from proxy.api.responses import ApiRequest, ApiResponse, Site, document_answer
from proxy.core.errors import Problem
from proxy.core.job import ErrorCode, ExportRequest, Job, Phase, ResultState
from proxy.core.job_document import accepted
from proxy.core.job_request import kickoff_fields
from proxy.core.retention import as_of
from proxy.core.routing import Kickoff
from proxy.jobs.held_fields import HeldFields
from proxy.jobs.run import Run
from proxy.jobs.runner import Runner
from proxy.jobs.sealing import Sealer
from proxy.ports import Fields, JobStore, Response, Upstream, UpstreamFailure, WholeResponse
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials

log = structlog.get_logger(__name__)

_KEY = re.compile(r'"([\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e][\x21-\x7e]{0,254})')
#: CONTRACT §3.7: what a caller that still waits is told when there is no answer of U to relay.
_NO_ANSWER = {ErrorCode.UNREACHABLE: "upstream-unreachable", ErrorCode.TIMEOUT: "upstream-timeout"}
_PREFLIGHT_LIMIT = 16 * 1024 * 1024
#: Seconds at most until a job that has a slot is on record as claimed: a matter of milliseconds.
_CLAIM_PATIENCE = 0.5
#: Bytes of request fields that all unfinished exports may hold. A head has 256 KiB at most, and up
#: to `exports.max_queued` of them wait.
_HELD_FIELDS = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KickoffPolicy:
    """Times in seconds (CONTRACT §15 `exports`)."""

    grace: float
    max_wait: float
    preflight: bool
    preflight_timeout: float
    preserve_host: bool


class KickoffHandler:
    """Answers asynchronous export POSTs. `now` is the wall clock."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        access: Access,
        runner: Runner,
        upstream: Upstream,
        download: Download,
        intake: RequestBodies,
        site: Site,
        safe: Sealer,
        policy: KickoffPolicy,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._access = access
        self._runner = runner
        self._upstream = upstream
        self._download = download
        self._intake = intake
        self._site = site
        self._safe = safe
        self._policy = policy
        self._now = now
        self._held_fields = HeldFields(_HELD_FIELDS)
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def kickoff(self, asked: ApiRequest, decision: Kickoff) -> ApiResponse:
        """Accept the export as a job, or answer why not. Raises `Problem`."""
        with ExitStack() as ending:
            async with self._intake.receive(asked) as body:
                accepted = await self._accept(asked, decision, body, ending)
            if isinstance(accepted, tuple):
                return await self._answer(asked, decision, *accepted)
            return accepted

    async def _accept(
        self, asked: ApiRequest, decision: Kickoff, body: bytes, ending: ExitStack
    ) -> ApiResponse | tuple[Job, Run]:
        """A job that is on record and started, or the answer to a kick-off that makes none. Raises
        `Problem`.

        `ending` ends the attendance of the run, also when the client leaves while the job is being
        stored.
        """
        credentials = asked.credentials()
        request = _export_request(asked, decision, body)
        replayed = await self._replay(asked, credentials, request, decision)
        if replayed is not None:
            return replayed
        refusal, learnt = await asyncio.gather(
            self._preflight(asked, credentials, decision), self._access.learn(credentials)
        )
        # by now it may be known who a refreshed token stands for
        replayed = await self._replay(asked, credentials, request, decision)
        if replayed is None and learnt is None:
            replayed = await self._claimed_replay(asked, credentials, request, decision)
        if replayed is not None:
            return replayed
        if refusal is not None:
            return refusal
        # a key or a place is not taken under an identity whose token VB365 refuses by now
        owner, *aliases = (self._access.hashes if learnt is False else self._access.owners)(
            credentials
        )
        fields = kickoff_fields(asked.fields, preserve_host=self._policy.preserve_host)
        now = self._now()
        job = Job(
            id=str(uuid.uuid4()),
            version=1,
            owner=owner,
            aliases=tuple(aliases),
            request=request,
            created=now,
            updated=now,
            sealed=self._safe.seal(fields),
        )
        run = Run(job.id, fields, attended=self._grace(decision) > 0)
        self._held_fields.take(run)
        ending.callback(run.go_on)
        # each turn but the last finds a record of the same key, which is gone when it is looked at
        while (stored := await self._submit(job, body, run)).id != job.id:
            replayed = await self._replayed(asked, credentials, request, decision, stored)
            if replayed is not None:
                return replayed
        self._access.allow(credentials, job)
        log.info("export accepted", job=job.id, export=request.title)
        return job, run

    async def _submit(self, job: Job, body: bytes, run: Run) -> Job:
        """Persist and start the job; or the one that its Idempotency-Key stands for, which needs no
        room of its own.

        A duplicate waits for the first of its kind: while that one arrives the quota cannot tell
        them apart.
        """
        key = job.request.idempotency_key
        async with AsyncExitStack() as turns:
            # one order for all, so that two of them never wait for each other
            for owner in sorted(set(job.owners)):
                lock = self._turns.setdefault((owner, key or job.id), asyncio.Lock())
                await turns.enter_async_context(lock)
            found = await self._find(job.owners, key)
            if found is not None:
                return found
            async with self._runner.admission(*job.owners):
                return await self._runner.submit(job, body, run)

    async def _replay(
        self, asked: ApiRequest, credentials: Credentials, request: ExportRequest, decision: Kickoff
    ) -> ApiResponse | None:
        """CONTRACT §8: the answer of the job that the key is taken for, None without one."""
        found = await self._find(self._access.owners(credentials), request.idempotency_key)
        return (
            None
            if found is None
            else await self._replayed(asked, credentials, request, decision, found)
        )

    async def _claimed_replay(
        self, asked: ApiRequest, credentials: Credentials, request: ExportRequest, decision: Kickoff
    ) -> ApiResponse | None:
        """The same under the identity that a token claims, while VB365 does not say whether it
        accepts the token.

        Else a moment's failure of VB365 after a restart, with a token refreshed meanwhile, would
        make a second generation. Whoever may not see the job is answered as if there were none.
        """
        claimed = self._access.claimed(credentials)
        found = None if claimed is None else await self._find([claimed], request.idempotency_key)
        if found is None:
            return None
        try:
            await self._access.check(credentials, found)
        except Problem as why:
            if why.status == 503:
                raise
            return None
        return await self._replayed(asked, credentials, request, decision, found)

    async def _find(self, owners: Iterable[str], key: str | None) -> Job | None:
        """The job with that key of one of the owners. The key dies with the record, swept or
        not.
        """
        for owner in owners if key is not None else ():
            found = await self._jobs.find(owner, key or "")
            if found is None:
                continue
            over = self._site.retention.record_over(found, self._now())
            if not over or not await self._jobs.remove(found):
                return found
        return None

    async def _replayed(
        self,
        asked: ApiRequest,
        credentials: Credentials,
        request: ExportRequest,
        decision: Kickoff,
        job: Job,
    ) -> ApiResponse | None:
        """The answer for a job that has the same key; None if it was dropped meanwhile."""
        run = self._runner.attended(job.id)
        # first: whoever may not see the job learns nothing of what it exports (CONTRACT §9)
        await self._access.check(credentials, job)
        if job.request.fingerprint != request.fingerprint:
            raise Problem(
                "idempotency-key-reused",
                "This Idempotency-Key stands for another export. Use a new one.",
            )
        if run is not None:
            # the first of them waits for VB365's first answer, which is this one's as well
            first = await run.first_answer(self._grace(decision))
            if isinstance(first, Problem):
                raise first
            if first is not None:
                return first
        if job.phase is Phase.SUSPENDED:
            borrowed = not await self._access.owns(credentials, job)
            await self._runner.resume(job, asked.fields, borrowed=borrowed)
        current = await self._jobs.get(job.id)
        if current is None or current.forgotten:
            return None
        return self._accepted(
            asked, decision, as_of(current, self._now()), [("Idempotency-Replayed", "true")]
        )

    async def _preflight(
        self, asked: ApiRequest, credentials: Credentials, decision: Kickoff
    ) -> WholeResponse | None:
        """VB365's refusal of the parent resource, to be relayed; None goes on: never a false
        refusal (CONTRACT §3.4).

        It stands for the caller's own request, so path and Host are his: that it succeeds proves
        nothing about him.
        """
        parent = decision.export.parent
        if not self._policy.preflight or parent is None:
            return None
        fields = [*((b"Host", value) for value in asked.raw(b"host")), *credentials.fields]
        try:
            async with asyncio.timeout(self._policy.preflight_timeout):
                return await self._ask_parent(parent.encode("latin-1"), fields)
        except (UpstreamFailure, TimeoutError) as why:
            log.info("preflight not answered", reason=str(why) or type(why).__name__)
            return None

    async def _ask_parent(self, target: bytes, fields: Fields) -> WholeResponse | None:
        patience = self._policy.preflight_timeout
        response = await self._upstream.send(
            b"GET", target, fields, timeout=patience, stall=patience
        )
        try:
            if response.status in (401, 403, 404):
                return WholeResponse(
                    response.status, response.reason, response.fields, await _whole(response)
                )
            return None
        finally:
            response.close()

    def _grace(self, decision: Kickoff) -> float:
        """Seconds for which U's first answer is awaited; a shorter `wait` is what the client has
        patience for.
        """
        wait = decision.preferences.wait
        return self._policy.grace if wait is None else min(self._policy.grace, wait)

    async def _answer(
        self, asked: ApiRequest, decision: Kickoff, job: Job, run: Run
    ) -> ApiResponse:
        started = asyncio.get_running_loop().time()
        # a queued job has no first answer to wait for, and none is relayed later
        if self._runner.is_waiting(job.id) or not run.attended:
            run.go_on()
        first = await run.first_answer(self._grace(decision))
        if isinstance(first, Problem):
            raise first
        if first is not None:
            return first
        wait = min(decision.preferences.wait or 0, self._policy.max_wait)
        rest = wait - (asyncio.get_running_loop().time() - started)
        current = await self._terminal(await self._claimed(job), rest)
        if wait > 0 and current.terminal:
            return await self._outcome(asked, decision, current, run)
        return self._accepted(asked, decision, current)

    async def _claimed(self, job: Job) -> Job:
        """The job once its claim is on record: one that has a slot is not shown as Queued."""
        if self._runner.is_waiting(job.id):
            return job
        return await self._jobs.wait(job.id, job.version, _CLAIM_PATIENCE) or job

    async def _terminal(self, job: Job, rest: float) -> Job:
        """The job as it is when terminal, or after `rest` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + rest
        current = await self._jobs.get(job.id)
        while current is not None and not current.terminal and (left := until - loop.time()) > 0:
            current = await self._jobs.wait(current.id, current.version, left)
        return job if current is None else current

    async def _outcome(
        self, asked: ApiRequest, decision: Kickoff, job: Job, run: Run
    ) -> ApiResponse:
        """The end within `wait=N`: the file with 200, or U's own refusal (CONTRACT §3.9)."""
        if job.result is ResultState.AVAILABLE:
            links = self._site.links(asked, job)
            extra = [("Content-Location", links.result), ("Vary", "Prefer")]
            if applied := self._applied(decision, file=True):
                extra.append(("Preference-Applied", applied))
            return await self._download.send(asked, job, method="POST", extra=extra)
        if run.rejection is not None and run.rejection.complete:
            return run.rejection
        if run.unanswered is not None:
            raise run.unanswered
        if job.error is not None and job.error.code in _NO_ANSWER:
            raise Problem(_NO_ANSWER[job.error.code], job.error.message)
        return self._accepted(asked, decision, job)

    def _accepted(
        self,
        asked: ApiRequest,
        decision: Kickoff,
        job: Job,
        extra: list[tuple[str, str]] | None = None,
    ) -> web.Response:
        links = self._site.links(asked, job)
        headers = accepted(job, links, self._applied(decision, file=False), self._now())
        return document_answer(202, job, links, [*headers, *(extra or [])])

    def _applied(self, decision: Kickoff, *, file: bool) -> str | None:
        """Preference-Applied: only what was sent, as applied (CONTRACT §3)."""
        preferences = decision.preferences
        applied = ["respond-async"] if preferences.respond_async and not file else []
        if preferences.wait is not None:
            applied.append(f"wait={int(min(preferences.wait, self._policy.max_wait))}")
        return ", ".join(applied) or None


async def _whole(response: Response) -> bytes:
    body = b""
    while len(body) <= _PREFLIGHT_LIMIT and (piece := await response.read()):
        body += piece
    return body


def _export_request(asked: ApiRequest, decision: Kickoff, body: bytes) -> ExportRequest:
    export = decision.export
    digest = hashlib.sha256()
    for part in (asked.head.method, decision.target, hashlib.sha256(body).digest()):
        digest.update(b"%d:%b" % (len(part), part))
    return ExportRequest(
        method=asked.method,
        target=decision.target.decode("latin-1"),
        api=export.api,
        session=export.session,
        title=export.title,
        content_type=asked.first("Content-Type"),
        accept=asked.first("Accept"),
        accept_language=asked.first("Accept-Language"),
        idempotency_key=_idempotency_key(asked),
        fingerprint=digest.hexdigest(),
    )


def _idempotency_key(asked: ApiRequest) -> str | None:
    """CONTRACT §8: 1 to 255 visible ASCII characters, quotes optional."""
    lines = asked.lines("Idempotency-Key")
    if not lines:
        return None
    match = _KEY.fullmatch(lines[0]) if len(lines) == 1 else None
    if match is None:
        raise Problem(
            "idempotency-key-invalid",
            "Idempotency-Key must be one value of 1 to 255 visible ASCII characters.",
        )
    return match[1] or match[2]
