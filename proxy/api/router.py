"""Dispatches the requests that are not relayed, and renders every error."""

from __future__ import annotations

import structlog
from aiohttp import web
from structlog.contextvars import bound_contextvars

from proxy.api.kickoff import KickoffHandler
from proxy.api.links import Site
from proxy.api.request import ApiRequest
from proxy.api.resources import Resources
from proxy.api.responses import ApiResponse, problem_response
from proxy.api.whole_response import Verbatim
from proxy.core.errors import Problem, drop_frames
from proxy.core.http.heads import Head
from proxy.core.paths import job_of
from proxy.core.request_id import FIELD as REQUEST_ID
from proxy.core.routing import BadSwitch, Decision, Kickoff, Own
from proxy.ports import StoreUnavailable, WholeResponse
from proxy.ports.tracing import Traced, Tracing

log = structlog.get_logger(__name__)

_STORE_RETRY_AFTER = 5


class ApiRouter:
    """Handles all requests that are not relayed. What is logged meanwhile has the request's id and
    the client's address.
    """

    def __init__(
        self, kickoffs: KickoffHandler, resources: Resources, site: Site, tracing: Tracing
    ) -> None:
        self._tracing = tracing
        self._kickoffs = kickoffs
        self._resources = resources
        self._site = site

    async def handle(
        self, inner: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        """Handle a request. A `Problem` becomes a response (CONTRACT §11).

        `head` is the head as the client sent it, `decision` that of `core.routing`.
        """
        request = ApiRequest(inner, head, decision)
        with bound_contextvars(request_id=request.id, client=self._site.client(request)):
            response = await self._respond(request)
        if isinstance(response, WholeResponse):
            return Verbatim(response)
        if not response.prepared:
            response.headers[REQUEST_ID] = request.id
        return response

    async def _respond(self, request: ApiRequest) -> ApiResponse:
        if not isinstance(request.decision, Kickoff):
            return await self._answer(request)
        with self._tracing.span(
            Traced.KICKOFF,
            request.fields,
            {"http.request.method": request.method, "url.path": request.path},
        ) as span:
            request.fields = tuple(span.fields(request.fields))  # also those of the job's request
            response = await self._answer(request)
            span.set("http.response.status_code", response.status)
            if not isinstance(response, WholeResponse):
                span.set("vb365.job.id", job_of(response.headers.get("Content-Location", "")))
            return response

    async def _answer(self, request: ApiRequest) -> ApiResponse:
        try:
            return await self._dispatch(request)
        except Problem as problem:
            drop_frames(problem)
            log.info(
                "request.refused",
                method=request.method,
                path=request.path,
                problem=problem.name,
                status=problem.status,
            )
            return problem_response(problem, request)
        except StoreUnavailable as why:
            drop_frames(why)
            log.warning("store not available", reason=str(why))
            detail = "The proxy cannot read or write its jobs now. Try again."
            unavailable = Problem("store-unavailable", detail, retry_after=_STORE_RETRY_AFTER)
            return problem_response(unavailable, request)

    async def _dispatch(self, request: ApiRequest) -> ApiResponse:
        match request.decision:
            case Kickoff() as decision:
                return await self._kickoffs.handle(request, decision)
            case Own() as decision:
                return await self._resources.handle(request, decision)
            case BadSwitch(detail):
                raise Problem("invalid-async-parameter", detail)
            case decision:
                raise TypeError(f"unexpected decision: {decision!r}")
