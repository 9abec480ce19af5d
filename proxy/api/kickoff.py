"""The kick-off: from an export POST to 202, in the order of CONTRACT §3."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

from aiohttp import web

from proxy.api.acceptance import Acceptance
from proxy.api.download import Download, NotOpened
from proxy.api.idempotency import IdempotencyKeys, idempotency_key
from proxy.api.links import Site
from proxy.api.preflight import Preflight
from proxy.api.request import ApiRequest
from proxy.api.request_body import RequestBodies, RequestBody
from proxy.api.responses import ApiResponse, document_response
from proxy.core.errors import Problem
from proxy.core.job import ErrorCode, ExportRequest, Job, Phase, ResultState
from proxy.core.job_document import accepted
from proxy.core.job_request import kickoff_fields, stored_request
from proxy.core.retention import as_of
from proxy.core.routing import Kickoff
from proxy.jobs.admission import UnacceptedCallers
from proxy.jobs.held_fields import HeldFields
from proxy.jobs.outcome import concerns, repeated
from proxy.jobs.run import Run
from proxy.jobs.runner import Runner
from proxy.jobs.sealing import Sealer
from proxy.jobs.waiting import until
from proxy.ports import JobStore, KeyClaimed, StoreUnavailable, WholeResponse
from proxy.ports.counts import JobCounts
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials

#: The problem for a waiting caller when there is no response of VB365 to relay (CONTRACT §3.7).
_NO_RESPONSE = {
    ErrorCode.UNREACHABLE: "upstream-unreachable",
    ErrorCode.TIMEOUT: "upstream-timeout",
}
#: Seconds to wait until a job that has a slot is recorded as claimed, which takes milliseconds.
_CLAIM_TIMEOUT = 0.5
#: How often a job with the same key may vanish before the kick-off is refused: each time another
#: kick-off of the same caller was stored, and VB365 refused it.
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class KickoffPolicy:
    """Times in seconds (CONTRACT §15 `exports`)."""

    grace: float
    max_wait: float


@dataclass(frozen=True, slots=True)
class _Call:
    """One kick-off: the request, its credentials, and the export that it asks for."""

    request: ApiRequest
    decision: Kickoff
    credentials: Credentials
    export: ExportRequest


class KickoffHandler:
    """Handles asynchronous export POSTs.

    `preflight` is None if it is turned off; `now` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        access: Access,
        keys: IdempotencyKeys,
        runner: Runner,
        preflight: Preflight | None,
        download: Download,
        bodies: RequestBodies,
        site: Site,
        sealer: Sealer,
        held_fields: HeldFields,
        policy: KickoffPolicy,
        counts: JobCounts,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._counts = counts
        self._access = access
        self._keys = keys
        self._runner = runner
        self._preflight = preflight
        self._download = download
        self._bodies = bodies
        self._site = site
        self._sealer = sealer
        self._policy = policy
        self._now = now
        self._acceptance = Acceptance(access, runner, held_fields)

    async def handle(self, request: ApiRequest, decision: Kickoff) -> ApiResponse:
        """Accept the export as a job, and return the response. Raises `Problem`."""
        with ExitStack() as stack:
            async with self._bodies.receive(request) as body:
                credentials = request.credentials()
                key = idempotency_key(request)
                target, head = decision.target, request.head
                export = stored_request(head, decision.export, target, body.content, key=key)
                call = _Call(request, decision, credentials, export)
                accepted = await self._accept(call, body, stack)
            # the response may take a minute, and its memory does not count any more
            del body
            if isinstance(accepted, tuple):
                return await self._respond(call, *accepted)
            return accepted

    async def _accept(
        self, call: _Call, body: RequestBody, stack: ExitStack
    ) -> ApiResponse | tuple[Job, Run]:
        """Create, store and start a job, or return the response to a kick-off that creates none.

        `stack` releases the run from waiting for this request, also if the client disconnects while
        the job is being stored. Raises `Problem`.
        """
        replayed = await self._replay(call)
        if replayed is not None:
            return replayed
        denial, learned = await asyncio.gather(
            self._denial(call), self._access.learn(call.credentials)
        )
        # the check may have shown who sent a refreshed token
        replayed = await self._replay(call)
        if replayed is not None:
            return replayed
        job_id, key = str(uuid.uuid4()), call.export.idempotency_key
        async with self._keys.announced(call.credentials, key, job_id, learned=learned):
            if learned is None and (replayed := await self._replay_claimed(call)) is not None:
                return replayed
            if denial is not None:
                return denial
            # a token that VB365 now rejects must use neither its identity's keys nor its quota
            owners = self._access.hashes if learned is False else self._access.owners
            fields = kickoff_fields(call.request.fields)
            job = self._job(call, job_id, owners(call.credentials), fields)
            job = await self._acceptance.marked(
                job, call.credentials, call.request.fields, learned=learned
            )
            run = Run(job.id, fields, attended=self._grace(call) > 0)
            job = await self._acceptance.hold(job, call.credentials, run)
            stack.callback(run.attendance.end)
            if not run.attendance.waiting:
                run.hold()
                stack.callback(run.release)
            return await self._store(call, job, body, run)

    def _job(
        self, call: _Call, id: str, owners: Sequence[str], fields: list[tuple[bytes, bytes]]
    ) -> Job:
        now = self._now()
        return Job(
            id=id,
            version=1,
            owner=owners[0],
            aliases=tuple(owners[1:]),
            request=call.export,
            client=self._site.client(call.request),
            created=now,
            updated=now,
            sealed=self._sealer.seal(fields),
        )

    async def _store(
        self, call: _Call, job: Job, body: RequestBody, run: Run
    ) -> ApiResponse | tuple[Job, Run]:
        """Store and start the job, or return the response for the one with the same key."""
        for _ in range(_ATTEMPTS):
            run.accepted = job.accepted
            try:
                stored = await self._submit(call, job, body, run)
            except KeyClaimed:
                continue  # by a kick-off that another replica has announced since
            except UnacceptedCallers as why:
                job = await self._acceptance.confirmed(job, call.credentials, why)
                continue
            if stored.id == job.id:
                self._access.allow(call.credentials, stored)
                return stored, run
            replayed = await self._replay_job(call, stored)
            if replayed is not None:
                return replayed
        raise Problem(
            "capacity-exhausted",
            "Other exports with this Idempotency-Key are being refused. Try again.",
            retry_after=1,
        )

    async def _denial(self, call: _Call) -> WholeResponse | None:
        """Return VB365's denial of the parent resource, to be relayed (CONTRACT §3.4)."""
        parent = call.decision.export.parent
        if self._preflight is None or parent is None:
            return None
        hosts, known = call.request.raw(b"host"), self._access.knows(call.request.fields)
        return await self._preflight.denial(parent, hosts, call.credentials, known=known)

    async def _submit(self, call: _Call, job: Job, body: RequestBody, run: Run) -> Job:
        """Store and start the job, or return the one with the same Idempotency-Key, which needs no
        capacity.
        """
        async with AsyncExitStack() as stack:
            taking = self._keys.taking(call.credentials, job)
            found = await stack.enter_async_context(taking)
            if found is not None:
                return found
            stack.enter_context(body.memory.held())
            admitted = self._admitted(job, body.content, run, stack.pop_all())
            return await self._runner.tasks.undivided(admitted)

    async def _admitted(self, job: Job, body: bytes, run: Run, held: AsyncExitStack) -> Job:
        """Store and start the job if there is capacity for it; `held` ends afterwards. To be
        completed even if the client leaves: until then the job must count.
        """
        async with held:
            try:
                async with self._runner.admission(
                    *job.owners, accepted=job.accepted, size=len(body)
                ):
                    return await self._runner.submit(job, body, run)
            except Problem:
                # another replica may have just stored the duplicate that took the last place
                stored = await self._keys.find(job.owners, job.request.idempotency_key)
                if stored is None:
                    raise
                return stored

    # idempotency keys (CONTRACT §8)

    async def _replay(self, call: _Call) -> ApiResponse | None:
        """Return the response for the caller's job with the same key, None without one."""
        owners = self._access.owners(call.credentials)
        found = await self._keys.find(owners, call.export.idempotency_key)
        return None if found is None else await self._replay_job(call, found)

    async def _replay_claimed(self, call: _Call) -> ApiResponse | None:
        """Return the same for the identity that a token claims, when VB365 does not say whether it
        accepts the token.

        Otherwise a short failure of VB365 after a restart and a token refresh would start a second
        export. A caller that may not see the job gets the response as if there were none.
        """
        claimed = self._access.claimed(call.credentials)
        key = call.export.idempotency_key
        found = None if claimed is None else await self._keys.find([claimed], key)
        if found is None:
            return None
        try:
            await self._access.check(call.credentials, found)
        except Problem as why:
            if why.status == 503:
                raise
            return None
        return await self._replay_job(call, found)

    async def _replay_job(self, call: _Call, job: Job) -> ApiResponse | None:
        """Return the response for a job with the same key, None if it has been removed: then the
        export may be started again.
        """
        run = self._runner.attended(job.id)
        # before anything else: a caller that may not see the job must learn nothing of its export
        # (CONTRACT §9)
        await self._access.check(call.credentials, job)
        if job.request.fingerprint != call.export.fingerprint:
            raise Problem(
                "idempotency-key-reused",
                "This Idempotency-Key was used for another export. Use a new one.",
            )
        if run is not None:
            # the original kick-off still waits for VB365's first response, which also answers this
            # one
            first = await run.attendance.first_response(self._grace(call))
            if isinstance(first, Problem):
                raise first
            if first is not None:
                return repeated(first) if concerns(first, run, call.credentials) else None
        elif self._runner.is_attended_elsewhere(job):
            # the replica that handles the original kick-off may drop the job
            await until(
                self._jobs, job, lambda now: not now.attended or now.terminal, self._grace(call)
            )
        if job.phase is Phase.SUSPENDED:
            borrowed = not await self._access.owns(call.credentials, job)
            await self._runner.resume(job, call.request.fields, borrowed=borrowed)
        current = await self._jobs.get(job.id)
        if current is not None and current.borrowed and not job.borrowed:
            await self._access.check(call.credentials, current)
        # nothing is awaited between this promise and the 202
        if current is None or current.forgotten or not await self._runner.show(current):
            return None
        self._counts.joined += 1
        shown = as_of(current, self._now())
        return self._accepted(call, shown, [("Idempotency-Replayed", "true")])

    # the response to an accepted export

    async def _respond(self, call: _Call, stored: Job, run: Run) -> ApiResponse:
        job, started = stored, asyncio.get_running_loop().time()
        run.release()  # it starts when this task waits for something, or has written the response
        # a queued job has no first response to wait for, and a later one is not relayed
        if self._runner.is_waiting(job.id) or not run.attendance.waiting:
            run.attendance.end()
        waited = run.attendance.waiting
        first = await run.attendance.first_response(self._grace(call))
        if isinstance(first, Problem):
            raise first
        if first is not None:
            return first
        wait = min(call.decision.preferences.wait or 0, self._policy.max_wait)
        left = wait - (asyncio.get_running_loop().time() - started)
        try:
            job = await self._claimed(job)
            if waited or left > 0:
                job = await self._terminal(job, left)
        except StoreUnavailable:
            # the job is stored and goes on; after an error the client would start it again
            return self._accepted(call, job)
        if job.forgotten:
            raise Problem("job-deleted", "The export job was deleted.")
        if wait > 0 and job.terminal and await self._may_see(call, job):
            return await self._outcome(call, job, run)
        # polls, which are checked, show what another caller's credentials have made of it
        return self._accepted(call, stored if job.borrowed else job)

    def _grace(self, call: _Call) -> float:
        """Return the seconds to wait for VB365's first response: at most the client's `wait`."""
        wait = call.decision.preferences.wait
        return self._policy.grace if wait is None else min(self._policy.grace, wait)

    async def _claimed(self, job: Job) -> Job:
        """Return the job once its claim is stored: a job that has a slot is not shown as Queued."""
        if self._runner.is_waiting(job.id):
            return job
        return await until(
            self._jobs, job, lambda now: now.phase is not Phase.QUEUED, _CLAIM_TIMEOUT
        )

    async def _terminal(self, job: Job, timeout: float) -> Job:
        """Return the job when it is terminal, or after `timeout` seconds."""
        current = await self._jobs.get(job.id)
        return await until(self._jobs, current or job, lambda now: now.terminal, timeout)

    async def _may_see(self, call: _Call, job: Job) -> bool:
        """Whether the caller may see what another caller's credentials have made of its job."""
        if job.borrowed:
            try:
                await self._access.check(call.credentials, job)
            except Problem:
                return False  # no error: the job is stored, and the client would start it again
        return True

    async def _outcome(self, call: _Call, job: Job, run: Run) -> ApiResponse:
        """Return the file with 200, or VB365's own error (CONTRACT §3.9)."""
        if job.result is ResultState.AVAILABLE:
            links = self._site.links(call.request, job)
            extra = [("Content-Location", links.result), ("Vary", "Prefer")]
            applied = call.decision.preferences.applied(self._policy.max_wait, file=True)
            if applied:
                extra.append(("Preference-Applied", applied))
            try:
                return await self._download.send(call.request, job, method="POST", extra=extra)
            except NotOpened:
                return self._accepted(call, job)
        refusal = run.refusal
        if isinstance(refusal, Problem):
            raise refusal
        if refusal is not None:
            return refusal
        if job.error is not None and job.error.code in _NO_RESPONSE:
            raise Problem(_NO_RESPONSE[job.error.code], job.error.message)
        return self._accepted(call, job)

    def _accepted(
        self, call: _Call, job: Job, extra: Iterable[tuple[str, str]] = ()
    ) -> web.Response:
        links = self._site.links(call.request, job)
        applied = call.decision.preferences.applied(self._policy.max_wait, file=False)
        headers = accepted(job, links, applied, self._now())
        return document_response(202, job, links, [*headers, *extra])
