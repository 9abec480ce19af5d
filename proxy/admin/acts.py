"""What an operator does to jobs: cancel, delete, release, extend (CONTRACT §16)."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable

from aiohttp import web

from proxy.admin.admission import HOW
from proxy.admin.lookup import Lookup, deleted
from proxy.admin.responses import FIELDS, Refusal, bad_request, encoded
from proxy.admin.rows import Rows
from proxy.core.events import CancelRequested, Event, Extended, Forgotten, Released
from proxy.core.job import Job, ResultState, Status
from proxy.core.job_document import retry_after
from proxy.jobs import events
from proxy.jobs.record import advance_for_caller
from proxy.jobs.runner import Runner
from proxy.ports import ArtifactStore, JobStore

#: Seconds from now for which a file can be kept.
MAX_TTL = 30 * 86_400.0
#: The maximum of bytes of a body, and of seconds until it has arrived.
_LONGEST, _PATIENCE = 4096, 10.0
_TTL = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Acts:
    """Handles the requests that change jobs. `now` returns Unix seconds."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        runner: Runner,
        lookup: Lookup,
        rows: Rows,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._runner = runner
        self._lookup = lookup
        self._rows = rows
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/api/jobs/{id}/cancel", self._cancel),
            web.post("/api/jobs/{id}/extend", self._extend),
            web.delete("/api/jobs/{id}/result", self._release),
            web.delete("/api/jobs/{id}", self._delete),
        ]

    async def _cancel(self, request: web.Request) -> web.Response:
        """202 while the export is being cancelled; 200 and no change if it had ended."""
        job = await self._lookup.existing(request.match_info["id"])
        if job.terminal:
            return self._response(200, job)
        changed = await self._runner.end(job.id, CancelRequested())
        if changed is None:
            raise deleted()
        if not changed.terminal:
            events.operated("cancel", changed, how=request[HOW])
        return self._response(200 if changed.terminal else 202, changed)

    async def _delete(self, request: web.Request) -> web.Response:
        """Cancel the export, remove its file, and forget the job. Idempotent."""
        job = await self._lookup.stored(request.match_info["id"])
        if not job.forgotten:
            await self._runner.end(job.id, Forgotten())
            events.operated("delete", job, how=request[HOW])
        return _nothing()

    async def _release(self, request: web.Request) -> web.Response:
        """Remove the file and keep the job. Idempotent."""
        job = await self._lookup.existing(request.match_info["id"])
        if not job.terminal:
            detail = "The export is still running. Cancel it, or delete the job."
            raise self._not_ready(job, detail)
        if job.result is ResultState.AVAILABLE:
            await self._advance(job, Released())
            events.operated("release", job, how=request[HOW])
        await self._artifacts.remove(job.id)
        return _nothing()

    async def _extend(self, request: web.Request) -> web.Response:
        """Keep the file for at least `ttl` from now on."""
        job = await self._lookup.existing(request.match_info["id"])
        ttl = _ttl(await _body(request))
        if job.result is not ResultState.AVAILABLE:
            raise self._no_file(job)
        # whole seconds, as they are shown: an extended time is never shown as the one before
        changed = await self._advance(job, Extended(math.ceil(self._now() + ttl)))
        if changed.result is not ResultState.AVAILABLE:
            raise self._no_file(changed)
        events.operated("extend", changed, how=request[HOW])
        return self._response(200, changed)

    async def _advance(self, job: Job, event: Event) -> Job:
        changed = await advance_for_caller(self._jobs, job.id, event, self._now)
        if changed is None:
            raise deleted()
        return changed

    def _not_ready(self, job: Job, detail: str) -> Refusal:
        fields = {"Retry-After": str(retry_after(job, self._now()))}
        return Refusal(detail, name="result-not-ready", fields=fields)

    def _no_file(self, job: Job) -> Refusal:
        if not job.terminal:
            return self._not_ready(job, "The export is still running: there is no file yet.")
        return _ended_without(job)

    def _response(self, status: int, job: Job) -> web.Response:
        return encoded(self._rows.encoded(job), status)


def _nothing() -> web.Response:
    return web.Response(status=204, headers=FIELDS)


def _ended_without(job: Job) -> Refusal:
    if job.status is Status.CANCELLED:
        return Refusal("The export was cancelled; there is no file.", name="export-cancelled")
    if job.status is Status.FAILED:
        return Refusal("The export failed; there is no file.", name="export-failed")
    if job.result is ResultState.EXPIRED:
        return Refusal("The exported file has expired.", name="result-expired")
    return Refusal("The exported file was deleted.", name="result-deleted")


async def _body(request: web.Request) -> bytes:
    if request.content_length is not None and request.content_length > _LONGEST:
        raise bad_request(f"The body has more than {_LONGEST} bytes.")
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.content.iter_any():
                body += part
                if len(body) > _LONGEST:
                    raise bad_request(f"The body has more than {_LONGEST} bytes.")
    except TimeoutError as why:
        detail = f"The body did not arrive within {_PATIENCE:g} s."
        raise Refusal(detail, status=408) from why
    return bytes(body)


def _ttl(body: bytes) -> float:
    """Return the seconds of `{"ttl": "24h"}`. Raises a `Refusal`."""
    fix = 'Send {"ttl": "24h"}: a number with ms, s, m, h or d.'
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as why:
        raise bad_request(f"The body is no JSON. {fix}") from why
    text = document.get("ttl") if isinstance(document, dict) else None
    found = _TTL.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise bad_request(f"ttl={json.dumps(text)[:40]} is no duration. {fix}")
    seconds = float(found[1]) * _UNITS[found[2]]
    if not 0 < seconds <= MAX_TTL:
        raise bad_request(f"ttl={text!r} is out of range. Send more than 0 s and at most 30d.")
    return seconds
