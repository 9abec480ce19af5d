"""Responds to plain polls of a job's status, most of the requests to the proxy's own resources.

`Resources` responds to the same requests, and to all others, in five times the time: it may wait,
and aiohttp runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from proxy.api.documents import Documents
from proxy.api.links import Site
from proxy.api.request import Info, OwnRequest
from proxy.api.responses import SERVER
from proxy.core.http.dates import date_field
from proxy.core.http.heads import Head
from proxy.core.job import Job, Phase
from proxy.core.job_document import headers, status_code
from proxy.core.paths import Resource, parse
from proxy.core.request_id import FIELD as REQUEST_ID
from proxy.core.rescue import tentative
from proxy.core.retention import as_of
from proxy.core.routing import Decision, Own
from proxy.ports import JobStore
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials


class Polls:
    """Shows jobs that the store has in memory to callers whom VB365 has just allowed to see
    them. `now` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        access: Access,
        site: Site,
        documents: Documents,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._access = access
        self._site = site
        self._documents = documents
        self._now = now

    def respond(self, head: Head, decision: Decision, info: Info) -> tuple[int, bytes] | None:
        """Return the status and all bytes of the response to a request on a connection that is
        kept; None if it is no plain poll, or if to respond takes more than memory.
        """
        if head.method != b"GET" or not isinstance(decision, Own):
            return None
        found = parse(decision.rest)
        if found is None or found[0] is not Resource.STATUS:
            return None
        request = OwnRequest(head, decision, info)
        if request.raw(b"prefer") or request.raw(b"if-none-match"):
            return None
        credentials, job = Credentials.of(request.fields), self._jobs.in_memory(found[1])
        if credentials is None or job is None or not self._is_shown(job):
            return None
        return self._shown(request, job) if self._access.allows(credentials, job) else None

    def _is_shown(self, job: Job) -> bool:
        """Whether the job is shown as it is: a poll resumes a suspended one."""
        if job.forgotten or job.phase is Phase.SUSPENDED or tentative(job):
            return False
        return not self._site.retention.record_over(job, self._now())

    def _shown(self, request: OwnRequest, job: Job) -> tuple[int, bytes]:
        now = self._now()
        job = as_of(job, now)
        links = self._site.links(request, job)
        status, content = status_code(job), self._documents.body(job, links)
        fields = [
            *headers(job, links, self._site.retention, now),
            ("Content-Type", "application/json"),
            ("Server", SERVER),
            (REQUEST_ID, request.id),
        ]
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields]).encode("latin-1")
        phrase = HTTPStatus(status).phrase.encode()
        return status, b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\nDate: %b\r\n\r\n%b" % (
            status,
            phrase,
            lines,
            len(content),
            date_field(int(now)),
            content,
        )
