"""Watches a restore session's events for a warning about one export (CONTRACT §5 Warning)."""

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

log = structlog.get_logger(__name__)

_PAGE = 200
_PAGES = 10
_PAGE_LIMIT = 8 * 1024 * 1024
_TRIES = 3
_PAUSE = 0.5
#: An event starts with its request. U's Date field is cut to the second: a smaller difference of
#: the clocks is none.
_SLACK = 5.0
_SAME_CLOCK = 1.5
_TIED = 0.25
#: What the event of an export that gave its whole file may say: those that failed are other
#: exports' (CONTRACT §5).
_POSSIBLE = frozenset({"Running", "Success", "Warning"})
#: What a page that is not a page of events comes to: it must not cost the caller the file.
_NONSENSE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True)
class _Event:
    started: float
    status: str


class SessionEvents:
    """Asks U for the session's events. `timeout` bounds one export's questions, in seconds; `now`
    is the wall clock.
    """

    def __init__(self, upstream: Upstream, *, timeout: float, now: Callable[[], float]) -> None:
        self._upstream = upstream
        self._timeout = timeout
        self._now = now

    async def warns(self, job: Job, fields: Fields, posted: float) -> bool:
        """True if the event of the export that was posted at the Unix second `posted` says Warning.

        Events carry no job id: the one of the same type that started nearest to the POST counts,
        and those tied with it. U not answering is no warning: the file's length was verified
        without it.
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
        except (UpstreamFailure, TimeoutError, *_NONSENSE) as why:
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
            status for distance, status in distances if distance <= min(nearest + _TIED, _SLACK)
        }

    async def _page(
        self, job: Job, credentials: Credentials, page: int
    ) -> tuple[list[dict[str, Any]], float]:
        """One page of events, and how far U's clock is ahead of ours in seconds."""
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
            body = b""
            while len(body) <= _PAGE_LIMIT and (piece := await response.read()):
                body += piece
            if response.status != 200:
                raise ValueError(f"the events answered {response.status}")
        finally:
            response.close()
        return [dict(event) for event in json.loads(body)["results"]], self._skew(response.fields)

    def _skew(self, fields: Fields) -> float:
        date = value_of(fields, b"date")
        if date is None:
            return 0.0
        skew = parsedate_to_datetime(date.decode("latin-1")).timestamp() - self._now()
        return skew if abs(skew) > _SAME_CLOCK else 0.0


def _moment(text: object) -> float:
    """VB365 writes seven digits of a second: more than datetime reads."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(text))).timestamp()
