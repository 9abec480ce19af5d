"""Status, result, cancel, delete and list: what a caller does with its jobs (CONTRACT §2, §4, §6,
§7, §9).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from proxy.api.download import Download
from proxy.api.responses import ApiRequest, Site, answer, document_answer
from proxy.core.errors import Problem
from proxy.core.http.ranges import etag_list
from proxy.core.job import (
    CancelRequested,
    Event,
    Forgotten,
    IllegalTransition,
    Job,
    Phase,
    Released,
    ResultState,
    Status,
    advance,
)
from proxy.core.job_document import document, etag, headers, retry_after
from proxy.core.paths import Resource, parse
from proxy.core.preferences import parse_prefer
from proxy.core.retention import as_of
from proxy.core.routing import Own
from proxy.jobs.runner import Runner
from proxy.ports import ArtifactStore, JobStore
from proxy.upstream.access import Access, Statuses
from proxy.upstream.credentials import Credentials
from proxy.upstream.problems import not_found

_MAX_PAGE = 1000
_CONCURRENT_CHECKS = 8


class Resources:
    """Answers requests below the proxy's own segment.

    `description` is the OpenAPI document as JSON, `max_wait` in seconds, `now` the wall clock.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        access: Access,
        runner: Runner,
        download: Download,
        site: Site,
        description: bytes,
        max_wait: float,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._access = access
        self._runner = runner
        self._download = download
        self._site = site
        self._description = description
        self._max_wait = max_wait
        self._now = now

    async def answer(self, asked: ApiRequest, own: Own) -> web.StreamResponse:
        """The answer for a path below `_async`. Raises `Problem`."""
        found = parse(own.rest)
        if found is None:
            raise not_found()
        resource, job_id = found
        if resource is Resource.DESCRIPTION:
            return self._describe(asked)
        if resource is Resource.LIST:
            return await self._allowing(asked, {"GET": self._list, "HEAD": self._list}, own)
        verbs: dict[Resource, dict[str, Any]] = {
            Resource.STATUS: {"GET": self._status, "HEAD": self._status, "DELETE": self._delete},
            Resource.RESULT: {"GET": self._result, "HEAD": self._result, "DELETE": self._release},
            Resource.CANCEL: {"POST": self._cancel},
        }
        return await self._allowing(asked, verbs[resource], job_id)

    def _describe(self, asked: ApiRequest) -> web.Response:
        if asked.method in ("GET", "HEAD"):
            return answer(200, [("Cache-Control", "no-store")], self._description)
        return _not_allowed(asked, ["GET", "HEAD"])

    async def _allowing(
        self, asked: ApiRequest, verbs: dict[str, Any], subject: object
    ) -> web.StreamResponse:
        verb = verbs.get(asked.method)
        if verb is None:
            return _not_allowed(asked, list(verbs))
        response: web.StreamResponse = await verb(asked, subject)
        return response

    async def _job(self, asked: ApiRequest, id: str) -> Job:
        """The job, if the caller may see it. An allowed call brings a Suspended job its credentials
        (CONTRACT §9).
        """
        credentials = asked.credentials()
        job = await self._jobs.get(id)
        if job is None or self._is_gone(job):
            raise await self._access.unknown(credentials, id)
        await self._access.check(credentials, job)
        current = await self._jobs.get(id)
        if current is None:
            raise not_found()
        return as_of(current, self._now())

    def _is_gone(self, job: Job) -> bool:
        return self._site.retention.record_over(job, self._now())

    async def _existing(self, asked: ApiRequest, id: str) -> Job:
        job = await self._job(asked, id)
        if job.forgotten:
            raise Problem("job-deleted", "The export job was deleted.")
        if job.phase is Phase.SUSPENDED:
            borrowed = not await self._access.owns(asked.credentials(), job)
            await self._runner.resume(job, asked.fields, borrowed=borrowed)
        return job

    # status

    async def _status(self, asked: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._existing(asked, id)
        wait = self._wait(asked)
        if wait > 0:
            job = await self._changed(job, asked.lines("If-None-Match"), wait)
        links = self._site.links(asked, job)
        fields = headers(job, links, self._site.retention, self._now())
        if _matches(asked.lines("If-None-Match"), job):
            return answer(304, fields)
        return document_answer(200 if job.terminal else 202, job, links, fields)

    def _wait(self, asked: ApiRequest) -> float:
        return min(parse_prefer(asked.raw(b"prefer")).wait or 0, self._max_wait)

    async def _changed(self, job: Job, known: Any, wait: float) -> Job:
        """Long-poll: the job once it differs from the known document, or else in status or phase
        (CONTRACT §4).
        """
        if known and not _matches(known, job):
            return job
        asked_of = (job.status, job.phase)

        def over(now: Job) -> bool:
            return now.terminal or (
                not _matches(known, now) if known else (now.status, now.phase) != asked_of
            )

        return await self._until(job, over, wait)

    async def _until(self, job: Job, over: Callable[[Job], bool], wait: float) -> Job:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not over(job) and (left := until - loop.time()) > 0:
            current = await self._jobs.wait(job.id, job.version, left)
            if current is None:
                raise not_found()
            if current.forgotten:
                raise Problem("job-deleted", "The export job was deleted.")
            job = as_of(current, self._now())
        return job

    # result

    async def _result(self, asked: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._existing(asked, id)
        wait = self._wait(asked)
        if wait > 0:
            job = await self._until(job, lambda now: now.terminal, wait)
        if job.result is not ResultState.AVAILABLE:
            raise self._no_file(job)
        return await self._download.send(asked, job, method=asked.method)

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

    async def _release(self, asked: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._existing(asked, id)
        if not job.terminal:
            raise Problem(
                "result-not-ready",
                "The export is still running. Cancel it, or delete the job.",
                retry_after=retry_after(job, self._now()),
            )
        if job.result is ResultState.AVAILABLE:
            await self._advance(job, Released())
        await self._artifacts.remove(id)
        return answer(204)

    # cancel and delete

    async def _cancel(self, asked: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._job(asked, id)
        if job.forgotten:
            raise Problem("job-deleted", "The export job was deleted.")
        changed = await self._advance(job, CancelRequested())
        if changed is None:
            raise Problem("job-deleted", "The export job was deleted.")
        changed = as_of(changed, self._now())
        links = self._site.links(asked, changed)
        fields = headers(changed, links, self._site.retention, self._now())
        if changed.terminal:
            return document_answer(200, changed, links, fields)
        await self._runner.wake(id)
        return document_answer(202, changed, links, fields)

    async def _delete(self, asked: ApiRequest, id: str) -> web.StreamResponse:
        job = await self._job(asked, id)
        if not job.forgotten:
            await self._advance(job, Forgotten())
            await self._runner.wake(id)
        return answer(204)

    async def _advance(self, job: Job, event: Event) -> Job | None:
        """Advance, then replace, else re-read: the job afterwards, unchanged if the event no longer
        applies.
        """
        current: Job | None = await self._jobs.get(job.id)
        while current is not None and not current.forgotten:
            try:
                changed = advance(current, event, self._now())
            except IllegalTransition:
                return current
            if await self._jobs.replace(current, changed):
                return changed
            current = await self._jobs.get(job.id)
        return None

    # list

    async def _list(self, asked: ApiRequest, own: Own) -> web.StreamResponse:
        query = _query(own.query)
        offset, limit = _count(query, "offset", 0), min(_count(query, "limit", 30), _MAX_PAGE)
        status = _known_status(query)
        session = query.get("restoresessionid")
        credentials = asked.credentials()
        owners = await self._access.identify(credentials)
        found = await self._candidates(owners, session)
        allowed = await self._visible(credentials, found)
        kept = [job for job in allowed if self._runner.may_show(job.id)]
        chosen = [job for job in kept if status is None or job.status is status]
        results = [
            document(job, self._site.links(asked, job)) for job in chosen[offset : offset + limit]
        ]
        links = _pages(self._site.listing(asked), query, offset, limit, len(chosen))
        page = {"offset": offset, "limit": limit, "results": results, "_links": links}
        return answer(200, [("Cache-Control", "no-store")], json.dumps(page).encode())

    async def _candidates(self, owners: Iterable[str], session: str | None) -> list[Job]:
        if session is not None:
            found = await self._jobs.list(session=session)
        else:
            known = {job.id: job for owner in owners for job in await self._jobs.list(owner=owner)}
            found = sorted(known.values(), key=lambda job: (job.created, job.id), reverse=True)
        now = self._now()
        return [as_of(job, now) for job in found if not job.forgotten and not self._is_gone(job)]

    async def _visible(self, credentials: Credentials, jobs: list[Job]) -> list[Job]:
        """Those of the jobs that the caller may see (CONTRACT §9).

        Each job is checked as its own URL does it, and each restore session is asked for once.
        """
        answers: Statuses = {}
        turn = asyncio.Semaphore(_CONCURRENT_CHECKS)

        async def judge(job: Job) -> bool:
            async with turn:
                return await self._may_see(credentials, job, answers)

        verdicts = await asyncio.gather(*map(judge, jobs))
        return [job for job, visible in zip(jobs, verdicts, strict=True) if visible]

    async def _may_see(self, credentials: Credentials, job: Job, answers: Statuses) -> bool:
        try:
            await self._access.check(credentials, job, answers)
        except Problem as why:
            if why.name != "job-not-found":
                raise
            return False
        return True


def _matches(lines: Any, job: Job) -> bool:
    """If-None-Match by weak comparison (RFC 9110 §8.8.3.2)."""
    if not lines:
        return False
    tags = etag_list(lines)
    return tags == "*" or etag(job).removeprefix("W/") in {tag.removeprefix("W/") for tag in tags}


def _not_allowed(asked: ApiRequest, verbs: list[str]) -> web.Response:
    allow = ", ".join([*verbs, "OPTIONS"])
    if asked.method == "OPTIONS":
        return answer(204, [("Allow", allow)])
    raise Problem(
        "method-not-allowed", f"Here only {allow} are allowed.", headers=(("Allow", allow),)
    )


def _query(text: str | None) -> dict[str, str]:
    """The first value of each parameter; names in lower case, as U does not tell the cases apart
    either.
    """
    first: dict[str, str] = {}
    for name, value in parse_qsl(text or "", keep_blank_values=True):
        first.setdefault(name.lower(), value)
    return first


def _pages(
    url: str, query: dict[str, str], offset: int, limit: int, total: int
) -> dict[str, dict[str, str]]:
    """Links of a page of the list: itself, and the neighbours that it has."""
    filters = {name: query[name] for name in ("status", "restoresessionid") if name in query}

    def page(start: int) -> dict[str, str]:
        return {"href": f"{url}?{urlencode({'offset': start, 'limit': limit} | filters)}"}

    links = {"self": page(offset)}
    if limit and offset:
        links["previous"] = page(max(0, offset - limit))
    if limit and offset + limit < total:
        links["next"] = page(offset + limit)
    return links


def _count(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Problem("bad-request", f"{name} must be a whole number that is not negative.")
    return int(text)


def _known_status(query: dict[str, str]) -> Status | None:
    text = query.get("status")
    if text is None:
        return None
    known = {str(status).lower(): status for status in Status}
    if text.lower() not in known:
        raise Problem("bad-request", f"status must be one of {', '.join(Status)}.")
    return known[text.lower()]
