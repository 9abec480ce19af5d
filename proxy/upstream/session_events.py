"""Looks for a warning about an export in its restore session's events (CONTRACT §5 Warning)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import structlog

from proxy.core.http.fields import value_of
from proxy.core.job import Job
from proxy.ports import Fields, Upstream, UpstreamFailure
from proxy.upstream.credentials import Credentials
from proxy.upstream.whole_response import read_whole

log = structlog.get_logger(__name__)

_PAGE = 200
_PAGES = 10
_PAGE_LIMIT = 8 * 1024 * 1024
_TRIES = 3
_PAUSE = 0.5
#: Seconds between an export's POST and the start of its event, at most.
_MAX_DISTANCE = 5.0
#: Seconds of clock difference that are ignored: VB365's Date field has a resolution of one second.
_SAME_CLOCK = 1.5
#: Seconds within which two events are equally near.
_TIED = 0.25
#: Statuses that the event of a complete export may have: failed ones belong to other exports
#: (CONTRACT §5).
_POSSIBLE = frozenset({"Running", "Success", "Warning"})
#: Errors that parsing a malformed page raises. They must not cost the caller the file.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True)
class _Event:
    started: float
    status: str


class SessionEvents:
    """Reads a restore session's events from VB365.

    `timeout` limits all requests for one export, in seconds; `now` returns Unix seconds.
    """

    def __init__(self, upstream: Upstream, *, timeout: float, now: Callable[[], float]) -> None:
        self._upstream = upstream
        self._timeout = timeout
        self._now = now

    async def warns(self, job: Job, fields: Fields, posted: float) -> bool:
        """Report whether the event of the export that was posted at `posted`, in Unix seconds, has
        the status Warning.

        Events have no job id: the event of the same type that started nearest to the POST counts,
        and those tied with it. No response from VB365 is no warning, because the file's length has
        been verified without it.
        """
        credentials = Credentials.of(fields)
        if credentials is None or job.request.session is None:
            return False
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(_TRIES):
                    statuses = await self._statuses(job, credentials, posted)
                    if "Running" not in statuses:
                        break
                    await asyncio.sleep(_PAUSE)
        except (UpstreamFailure, TimeoutError, *_MALFORMED) as why:
            log.warning(
                "session events not read", job=job.id, reason=str(why) or type(why).__name__
            )
            return False
        return "Warning" in statuses

    async def _statuses(self, job: Job, credentials: Credentials, posted: float) -> set[str]:
        kind = "Save" if job.request.title.lower() == "save" else "Export"
        found: list[_Event] = []
        for page in range(_PAGES):
            events, skew = await self._page(job, credentials, page)
            found += [
                _Event(_moment(event.get("startTime")) - skew, str(event.get("status")))
                for event in events
                if event.get("type") == kind and event.get("status") in _POSSIBLE
            ]
            if len(events) < _PAGE:
                break
        distances = [(abs(event.started - posted), event.status) for event in found]
        nearest = min(distances, default=(0.0, ""))[0]
        return {
            status
            for distance, status in distances
            if distance <= min(nearest + _TIED, _MAX_DISTANCE)
        }

    async def _page(
        self, job: Job, credentials: Credentials, page: int
    ) -> tuple[list[dict[str, Any]], float]:
        """Return one page of events, and how far VB365's clock is ahead of ours in seconds."""
        session = f"/{job.request.api}/RestoreSessions/{job.request.session}"
        path = f"{session}/Events?offset={page * _PAGE}&limit={_PAGE}"
        response = await self._upstream.send(
            b"GET",
            path.encode("latin-1"),
            credentials.fields,
            timeout=self._timeout,
            stall=self._timeout,
        )
        try:
            whole = await read_whole(response, _PAGE_LIMIT)
            if whole.status != 200 or not whole.complete:
                raise ValueError(f"VB365 responded {whole.status}")
        finally:
            response.close()
        return [dict(event) for event in json.loads(whole.body)["results"]], self._skew(
            response.fields
        )

    def _skew(self, fields: Fields) -> float:
        date = value_of(fields, b"date")
        if date is None:
            return 0.0
        skew = parsedate_to_datetime(date.decode("latin-1")).timestamp() - self._now()
        return skew if abs(skew) > _SAME_CLOCK else 0.0


def _moment(text: object) -> float:
    """Parse a time of VB365, which has seven fractional digits: more than datetime accepts."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(text))).timestamp()
