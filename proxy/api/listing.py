"""The list of the jobs that a caller may see (CONTRACT §2, §9)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from urllib.parse import parse_qsl, urlencode
from weakref import WeakValueDictionary

from aiohttp import web

from proxy.api.links import Site
from proxy.api.request import ApiRequest
from proxy.api.responses import respond
from proxy.core.errors import Problem
from proxy.core.job import Job, Status
from proxy.core.job_document import body
from proxy.core.rescue import tentative
from proxy.core.retention import as_of
from proxy.core.routing import Own
from proxy.jobs.runner import Runner
from proxy.ports import JobStore
from proxy.upstream.access import Access, Statuses
from proxy.upstream.credentials import Credentials

_DEFAULT_PAGE, _MAX_PAGE = 30, 1000
#: Parameters of a query. Parsing a query of 64 KiB with only these takes a few milliseconds.
_MAX_PARAMETERS = 64
_CONCURRENT_CHECKS = 8
#: Jobs that are looked at before other requests have their turn. No more are than the page needs.
_TOGETHER = 64
#: Bytes of documents after which others have their turn: one with a long error of VB365 takes up
#: to 30 ms.
_LONG = 1 << 14
#: Lists in progress at a time, of all callers and of one, others wait: one that few jobs match
#: looks at all of a caller, and VB365 may take its time with each session.
_CONCURRENT_LISTS, _OF_ONE_CALLER = 4, 2
#: A session that can be part of a path unchanged. VB365's ids are UUIDs.
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Listing:
    """Handles GET of the list. `now` returns Unix seconds."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        access: Access,
        runner: Runner,
        site: Site,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._access = access
        self._runner = runner
        self._site = site
        self._now = now
        self._turns = asyncio.Semaphore(_CONCURRENT_LISTS)
        self._own_turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def handle(self, request: ApiRequest, own: Own) -> web.StreamResponse:
        """Return a page of the list. Raises `Problem`."""
        query = _query(own.query)
        offset = _count(query, "offset", 0)
        limit = min(_count(query, "limit", _DEFAULT_PAGE), _MAX_PAGE)
        status = _status(query)
        session = query.get("restoresessionid")
        credentials = request.credentials()
        owners = await self._access.identify(credentials)
        own_turns = self._own_turns.setdefault(owners[0], asyncio.Semaphore(_OF_ONE_CALLER))
        async with own_turns, self._turns:
            chosen = await self._first(offset + limit + 1, credentials, owners, session, status)
            results = await self._documents(request, chosen[offset : offset + limit])
        links = _page_links(self._site.listing(request), query, offset, limit, len(chosen))
        page = b'{"offset": %d, "limit": %d, "results": [%b], "_links": %b}' % (
            offset,
            limit,
            results,
            json.dumps(links).encode(),
        )
        return respond(200, [("Cache-Control", "no-store")], page)

    async def _check_session(self, credentials: Credentials, session: str) -> None:
        """Send VB365 the requests that a job in this session would cause, so that the time taken
        does not disclose whether there is one (CONTRACT §9). Raises `Problem` 401 or 503.
        """
        if _SESSION.fullmatch(session):
            problem = await self._access.unknown(credentials, session)
            if problem.name != "job-not-found":
                raise problem

    async def _first(
        self,
        count: int,
        credentials: Credentials,
        owners: Collection[str],
        session: str | None,
        status: Status | None,
    ) -> list[Job]:
        """Return the first `count` jobs of the session, otherwise of the owners, that have this
        status and that the caller may see, or a few more.
        """
        chosen: list[Job] = []
        statuses: Statuses = {}
        any_exist = False
        async with aclosing(self._existing(owners, session)) as parts:
            async for jobs in parts:
                any_exist = True
                visible = await self._visible(credentials, jobs, statuses)
                shown = [job for job in visible if await self._runner.show(job)]
                chosen += [job for job in shown if status is None or job.status is status]
                if len(chosen) >= count:
                    break
                await asyncio.sleep(0)
        if session is not None and not any_exist:
            await self._check_session(credentials, session)
        return chosen

    async def _existing(
        self, owners: Collection[str], session: str | None
    ) -> AsyncGenerator[list[Job], None]:
        """The jobs, newest first and a few at a time, without tombstones and those that are over or
        may vanish.
        """
        now, retention = self._now(), self._site.retention
        async with aclosing(self._jobs.newest(owners=owners, session=session)) as parts:
            async for part in parts:
                for start in range(0, len(part), _TOGETHER):
                    jobs = [
                        as_of(job, now)
                        for job in part[start : start + _TOGETHER]
                        if not job.forgotten
                        and not tentative(job)
                        and not retention.record_over(job, now)
                    ]
                    if jobs:
                        yield jobs

    async def _documents(self, request: ApiRequest, jobs: Sequence[Job]) -> bytes:
        """Return the documents of the jobs as JSON, separated by commas."""
        found, rendered = [], 0
        for job in jobs:
            found.append(body(job, self._site.links(request, job)))
            rendered += len(found[-1])
            if rendered >= _LONG:
                rendered = 0
                await asyncio.sleep(0)
        return b", ".join(found)

    async def _visible(
        self, credentials: Credentials, jobs: Sequence[Job], statuses: Statuses
    ) -> list[Job]:
        """Return the jobs that the caller may see (CONTRACT §9).

        Each job is checked as for its own URL, and each restore session once: `statuses` is for
        all jobs of a list.
        """
        slots = asyncio.Semaphore(_CONCURRENT_CHECKS)

        async def check(job: Job) -> bool:
            async with slots:
                return await self._may_see(credentials, job, statuses)

        unsure = [job for job in jobs if not self._access.allows(credentials, job)]
        tasks = [asyncio.create_task(check(job)) for job in unsure]
        try:
            checked = zip(unsure, await asyncio.gather(*tasks), strict=True)
        finally:
            for task in tasks:
                task.cancel()  # after a failure nobody waits for the others
        hidden = {job.id for job, visible in checked if not visible}
        return [job for job in jobs if job.id not in hidden]

    async def _may_see(self, credentials: Credentials, job: Job, statuses: Statuses) -> bool:
        try:
            await self._access.check(credentials, job, statuses)
        except Problem as why:
            if why.name != "job-not-found":
                raise
            return False
        return True


def _query(text: str | None) -> dict[str, str]:
    """Return the first value of each parameter; names in lower case, as VB365 ignores case. Raises
    `Problem`.
    """
    try:
        pairs = parse_qsl(text or "", keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError as why:
        detail = f"The query has more than {_MAX_PARAMETERS} parameters."
        raise Problem("bad-request", detail) from why
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name.lower(), value)
    return first


def _page_links(
    url: str, query: dict[str, str], offset: int, limit: int, total: int
) -> dict[str, dict[str, str]]:
    """Return the links of a page: to itself, and to the previous and next one if they exist.

    `total` counts at least the jobs up to the first one after the page.
    """
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


def _status(query: dict[str, str]) -> Status | None:
    text = query.get("status")
    if text is None:
        return None
    known = {str(status).lower(): status for status in Status}
    if text.lower() not in known:
        raise Problem("bad-request", f"status must be one of {', '.join(Status)}.")
    return known[text.lower()]
