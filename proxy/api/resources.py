"""The resources of a job: status, result, cancel and delete (CONTRACT §2, §4, §6, §7, §9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.api.description import Description
from proxy.api.documents import Documents
from proxy.api.download import Download
from proxy.api.links import Site
from proxy.api.listing import Listing
from proxy.api.request import ApiRequest
from proxy.api.responses import document_response, respond
from proxy.core.errors import Problem
from proxy.core.events import CancelRequested, Forgotten, Released
from proxy.core.http.ranges import etag_list
from proxy.core.job import Job, Phase, ResultState, Status
from proxy.core.job_document import etag, headers, retry_after, status_code
from proxy.core.paths import Resource, parse
from proxy.core.preferences import parse_prefer
from proxy.core.rescue import tentative
from proxy.core.retention import as_of
from proxy.core.routing import Own
from proxy.jobs.record import advance_for_caller
from proxy.jobs.runner import Runner
from proxy.ports import ArtifactStore, JobStore
from proxy.upstream.access import Access
from proxy.upstream.problems import not_found, unauthorized

#: Characters of If-None-Match that are read. Tags beyond them do not match, so that the document is
#: sent.
_MAX_KNOWN = 1 << 10


class Resources:
    """Handles requests below the proxy's own segment.

    `max_wait` is in seconds, `now` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        access: Access,
        runner: Runner,
        download: Download,
        listing: Listing,
        site: Site,
        documents: Documents,
        description: Description,
        max_wait: float,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._access = access
        self._runner = runner
        self._download = download
        self._listing = listing
        self._site = site
        self._documents = documents
        self._description = description
        self._max_wait = max_wait
        self._now = now

    async def handle(self, request: ApiRequest, own: Own) -> web.StreamResponse:
        """Return the response for a path below the segment. Raises `Problem`."""
        found = parse(own.rest)
        if found is None:
            raise not_found()
        resource, job_id = found
        if resource is Resource.PAGE and own.api is not None:
            raise not_found()
        whole = {
            Resource.DESCRIPTION: self._description.document,
            Resource.PAGE: self._description.page,
            Resource.LIST: self._listing.handle,
        }
        if (get := whole.get(resource)) is not None:
            return await _by_method(request, {"GET": get, "HEAD": get}, own)
        methods: dict[Resource, dict[str, Any]] = {
            Resource.STATUS: {"GET": self._status, "HEAD": self._status, "DELETE": self._delete},
            Resource.RESULT: {"GET": self._result, "HEAD": self._result, "DELETE": self._release},
            Resource.CANCEL: {"POST": self._cancel},
        }
        return await _by_method(request, methods[resource], job_id)

    async def _job(self, request: ApiRequest, id: str) -> Job:
        """Return the job, tombstones too, if the caller may see it. Raises `Problem`."""
        # first: without credentials the response must not depend on the job (CONTRACT §9)
        credentials = request.credentials()
        job = self._jobs.in_memory(id)
        allowed = job is not None and self._access.allows(credentials, job)
        if not allowed:
            # also if it is in memory: the time must not disclose that the id exists
            job = await self._jobs.recent(id, fresh=True)
        if job is None or tentative(job) or self._site.retention.record_over(job, self._now()):
            raise await self._access.unknown(credentials, id)
        if not allowed:
            await self._access.check(credentials, job)
        current = await self._jobs.recent(id)
        if current is None:
            raise not_found()
        if not job.borrowed:
            await self._check_again(request, current)
        return as_of(current, self._now())

    async def _check_again(self, request: ApiRequest, job: Job) -> None:
        """Raise `Problem` if the job has run with another caller's credentials, perhaps since the
        check, and this caller may not see what they may see.
        """
        if job.borrowed:
            await self._access.check(request.credentials(), job)

    async def _existing(self, request: ApiRequest, id: str) -> Job:
        """Return the job if it is not deleted. A Suspended job resumes with the request's
        credentials (CONTRACT §9).
        """
        job = await self._job(request, id)
        if job.forgotten:
            raise _deleted()
        if job.phase is Phase.SUSPENDED:
            borrowed = not await self._access.owns(request.credentials(), job)
            await self._runner.resume(job, request.fields, borrowed=borrowed)
        return job

    # status

    async def _status(self, request: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._existing(request, id)
        known = _known(request)
        wait = self._wait(request)
        if wait > 0:
            job = await self._changed(job, known, wait)
            await self._check_again(request, job)
        links = self._site.links(request, job)
        fields = headers(job, links, self._site.retention, self._now())
        if _matches(known, job):
            return respond(304, fields)
        return document_response(status_code(job), job, links, fields, render=self._documents.body)

    def _wait(self, request: ApiRequest) -> float:
        return min(parse_prefer(request.raw(b"prefer")).wait or 0, self._max_wait)

    async def _changed(self, job: Job, known: frozenset[str] | None, wait: float) -> Job:
        """Long-poll: return the job once it differs from the known document, or without one once
        its status or phase changes (CONTRACT §4).
        """
        if known is not None and not _matches(known, job):
            return job
        before = (job.status, job.phase)

        def changed(now: Job) -> bool:
            return now.terminal or (
                (now.status, now.phase) != before if known is None else not _matches(known, now)
            )

        return await self._until(job, changed, wait)

    async def _until(self, job: Job, condition: Callable[[Job], bool], wait: float) -> Job:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not condition(job) and (left := until - loop.time()) > 0:
            job = self._now_known(await self._jobs.wait(job.id, job.version, left))
        return job

    def _now_known(self, current: Job | None) -> Job:
        """The job as a later read has found it. Raises `Problem` if it is gone."""
        if current is None:
            raise not_found()
        if current.forgotten:
            raise _deleted()
        return as_of(current, self._now())

    # result

    async def _latest(self, id: str) -> Job:
        """The job before it is refused as running: `recent` may be older than what another replica
        has shown to the caller.
        """
        return self._now_known(await self._jobs.get(id))

    async def _result(self, request: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._existing(request, id)
        if not job.terminal:
            job = await self._latest(id)
            job = await self._until(job, lambda now: now.terminal, self._wait(request))
            await self._check_again(request, job)
        if job.result is not ResultState.AVAILABLE:
            raise self._no_file(job)
        return await self._download.send(request, job, method=request.method)

    def _no_file(self, job: Job) -> Problem:
        if not job.terminal:
            pause = retry_after(job, self._now())
            return Problem(
                "result-not-ready",
                f"The export is {job.phase}. Ask again later.",
                retry_after=pause,
            )
        if job.status is Status.CANCELLED:
            return Problem("export-cancelled", "The export was cancelled; there is no file.")
        if job.status is Status.FAILED:
            return Problem(
                "export-failed",
                job.error.message if job.error else "The export failed; there is no file.",
            )
        if job.result is ResultState.EXPIRED:
            return Problem("result-expired", "The exported file has expired. Export it again.")
        return Problem("result-deleted", "The exported file was deleted. Export it again.")

    async def _release(self, request: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._existing(request, id)
        if not job.terminal:
            job = await self._latest(id)
            await self._check_again(request, job)
        if not job.terminal:
            raise Problem(
                "result-not-ready",
                "The export is still running. Cancel it, or delete the job.",
                retry_after=retry_after(job, self._now()),
            )
        await self._runner.tasks.undivided(self._remove_file(job))
        return respond(204)

    async def _remove_file(self, job: Job) -> None:
        if job.result is ResultState.AVAILABLE:
            await advance_for_caller(self._jobs, job.id, Released(), self._now)
        await self._artifacts.remove(job.id)

    # cancel and delete

    async def _ending(self, request: ApiRequest, id: str) -> Job:
        """As `_job`, for a call that ends the job. VB365 may continue to work on the request, so
        its slot is held (CONTRACT §3.5). With a token that VB365 rejects nobody may cause that.
        """
        job = await self._job(request, id)
        held = job.phase in (Phase.QUEUED, Phase.GENERATING) and not job.accepted
        if held and await self._access.refuses(request.credentials()):
            raise unauthorized()
        return job

    async def _cancel(self, request: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._ending(request, id)
        if job.forgotten:
            raise _deleted()
        changed = await self._runner.end(id, CancelRequested())
        if changed is None:
            raise _deleted()
        if not job.borrowed:
            await self._check_again(request, changed)
        changed = as_of(changed, self._now())
        links = self._site.links(request, changed)
        fields = headers(changed, links, self._site.retention, self._now())
        return document_response(status_code(changed), changed, links, fields)

    async def _delete(self, request: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._ending(request, id)
        if not job.forgotten:
            await self._runner.end(id, Forgotten())
        return respond(204)


def _known(request: ApiRequest) -> frozenset[str] | None:
    """Return the opaque tags of If-None-Match, or "*"; None without the field.

    They are parsed once: a long-poll compares them with every version of the job.
    """
    lines = request.lines("If-None-Match")
    if not lines:
        return None
    tags = etag_list([",".join(lines)[:_MAX_KNOWN]])
    return frozenset(tag.removeprefix("W/") for tag in tags)


def _matches(known: frozenset[str] | None, job: Job) -> bool:
    """Compare If-None-Match weakly with the job document (RFC 9110 §8.8.3.2)."""
    return known is not None and ("*" in known or etag(job).removeprefix("W/") in known)


def _deleted() -> Problem:
    return Problem("job-deleted", "The export job was deleted.")


async def _by_method(
    request: ApiRequest, methods: dict[str, Any], subject: object
) -> web.StreamResponse:
    handler = methods.get(request.method)
    if handler is None:
        return _not_allowed(request, list(methods))
    response: web.StreamResponse = await handler(request, subject)
    return response


def _not_allowed(request: ApiRequest, methods: list[str]) -> web.Response:
    allow = ", ".join([*methods, "OPTIONS"])
    if request.method == "OPTIONS":
        return respond(204, [("Allow", allow)])
    raise Problem("method-not-allowed", f"Allowed methods: {allow}.", headers=(("Allow", allow),))
