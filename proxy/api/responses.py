"""Responses of the proxy's own: JSON, job documents and problems (CONTRACT §5, §11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web
from multidict import CIMultiDict

from proxy import __version__
from proxy.api.request import ApiRequest
from proxy.core.errors import Problem, render
from proxy.core.job import Job
from proxy.core.job_document import body
from proxy.core.paths import Links
from proxy.ports import WholeResponse

#: What a handler returns.
ApiResponse = web.StreamResponse | WholeResponse

SERVER = f"vb365-async-proxy/{__version__}"


def respond(
    status: int, headers: Iterable[tuple[str, str]] = (), content: bytes = b""
) -> web.Response:
    """Return a response with these headers, in order, and Server. Content is JSON by default."""
    fields = CIMultiDict(headers)
    fields["Server"] = SERVER
    if content and "Content-Type" not in fields:
        fields["Content-Type"] = "application/json"
    return web.Response(status=status, headers=fields, body=content)


def document_response(
    status: int,
    job: Job,
    links: Links,
    headers: Iterable[tuple[str, str]],
    *,
    render: Callable[[Job, Links], bytes] = body,
) -> web.Response:
    """Return a response with the job document and these headers."""
    return respond(status, [*headers, ("Content-Type", "application/json")], render(job, links))


def problem_response(problem: Problem, request: ApiRequest) -> web.Response:
    """Return the response for a problem (CONTRACT §11)."""
    accept = ", ".join(request.lines("Accept"))
    headers, content = render(problem, request.path, accept, api=request.api, request_id=request.id)
    return respond(problem.status, headers, content)
