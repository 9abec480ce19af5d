"""What our own answers share: the caller's view of the request, links, JSON and problems (CONTRACT
§2, §11, §13).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from proxy import __version__
from proxy.core.errors import Problem, render
from proxy.core.exports import split_target
from proxy.core.http.fields import values_of
from proxy.core.http.heads import Head
from proxy.core.http.origin import Networks, base_url
from proxy.core.job import Job
from proxy.core.job_document import body
from proxy.core.paths import Links, job_links, list_url
from proxy.core.retention import Retention
from proxy.core.routing import Decision, Own
from proxy.ports import WholeResponse
from proxy.upstream.credentials import Credentials
from proxy.upstream.problems import unauthorized

#: What a handler returns; the connection writes it.
ApiResponse = web.StreamResponse | WholeResponse

SERVER = f"vb365-async-proxy/{__version__}"


class ApiRequest:
    """One request of ours, read from its raw head: aiohttp's own view of it is sanitised."""

    def __init__(self, request: web.BaseRequest, head: Head, decision: Decision) -> None:
        self.request = request
        self.head = head
        self.decision = decision
        self.fields = self.head.fields
        path, query = split_target(self.head.target)
        self.path = path.decode("latin-1")
        self.query = None if query is None else query.decode("latin-1")
        self.method = self.head.method.decode("latin-1")

    @property
    def api(self) -> str | None:
        """The version segment of a path of the proxy's own, wherever a prefix left it ("v8")."""
        return self.decision.api if isinstance(self.decision, Own) else None

    def credentials(self) -> Credentials:
        """The request's credentials. Raises `Problem` 401 without any.

        The router relays a kick-off without credentials, unless its body is too large.
        """
        found = Credentials.of(self.fields)
        if found is None:
            raise unauthorized()
        return found

    def lines(self, name: str) -> Sequence[str]:
        """The values of a field's lines, in order."""
        return [value.decode("latin-1") for value in self.raw(name.lower().encode())]

    def raw(self, name: bytes) -> list[bytes]:
        """The same as bytes; `name` in lower case."""
        return values_of(self.fields, name)

    def first(self, name: str) -> str | None:
        """The value of a field's first line, None without one."""
        return next(iter(self.lines(name)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the proxy is reached, and how long it keeps things (CONTRACT §2, §7, §13)."""

    public_url: str | None
    trusted: Networks
    segment: str
    retention: Retention

    def links(self, asked: ApiRequest, job: Job) -> Links:
        """The job's absolute URLs as this caller must use them."""
        return job_links(self._base(asked), job.request.api, self.segment, job.id)

    def listing(self, asked: ApiRequest) -> str:
        """The absolute URL of the list that was asked for."""
        return list_url(self._base(asked), asked.api, self.segment)

    def _base(self, asked: ApiRequest) -> str:
        transport = asked.request.transport
        peer = transport.get_extra_info("peername") if transport else None
        local = transport.get_extra_info("sockname") if transport else None
        return base_url(
            public_url=self.public_url,
            trusted=self.trusted,
            peer=str(peer[0]) if isinstance(peer, tuple) else None,
            scheme="https" if transport and transport.get_extra_info("sslcontext") else "http",
            local=_authority(local),
            fields=asked.lines,
        )


def _authority(address: Any) -> str:
    if not isinstance(address, tuple):
        return "localhost"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def answer(
    status: int, headers: Iterable[tuple[str, str]] = (), content: bytes = b""
) -> web.Response:
    """An answer of our own. `headers` go out in order; Server says who answered."""
    fields = CIMultiDict(headers)
    fields["Server"] = SERVER
    if content and "Content-Type" not in fields:
        fields["Content-Type"] = "application/json"
    return web.Response(status=status, headers=fields, body=content)


def document_answer(
    status: int, job: Job, links: Links, headers: Iterable[tuple[str, str]]
) -> web.Response:
    """The job document with these header fields."""
    return answer(status, [*headers, ("Content-Type", "application/json")], body(job, links))


def problem_answer(problem: Problem, asked: ApiRequest) -> web.Response:
    """The problem as CONTRACT §11 shows it."""
    headers, content = render(problem, asked.path, ", ".join(asked.lines("Accept")), api=asked.api)
    return answer(problem.status, headers, content)
