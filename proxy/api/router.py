"""Dispatches the requests that are not relayed, and renders every error."""

from __future__ import annotations

import structlog
from aiohttp import web

from proxy.api.kickoff import KickoffHandler
from proxy.api.request import ApiRequest
from proxy.api.resources import Resources
from proxy.api.responses import ApiResponse, problem_response
from proxy.api.whole_response import Verbatim
from proxy.core.errors import Problem
from proxy.core.http.heads import Head
from proxy.core.routing import BadSwitch, Decision, Kickoff, Own
from proxy.ports import StoreUnavailable, WholeResponse

log = structlog.get_logger(__name__)

_STORE_RETRY_AFTER = 5


class ApiRouter:
    """Handles all requests that are not relayed."""

    def __init__(self, kickoffs: KickoffHandler, resources: Resources) -> None:
        self._kickoffs = kickoffs
        self._resources = resources

    async def handle(
        self, inner: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        """Handle a request. A `Problem` becomes a response (CONTRACT §11).

        `head` is the head as the client sent it, `decision` that of `core.routing`.
        """
        request = ApiRequest(inner, head, decision)
        try:
            response = await self._dispatch(request)
        except Problem as problem:
            log.info(
                "request.refused",
                method=request.method,
                path=request.path,
                problem=problem.name,
                status=problem.status,
            )
            return problem_response(problem, request)
        except StoreUnavailable as why:
            log.warning("store not available", reason=str(why))
            detail = "The proxy cannot read or write its jobs now. Try again."
            unavailable = Problem("store-unavailable", detail, retry_after=_STORE_RETRY_AFTER)
            return problem_response(unavailable, request)
        return Verbatim(response) if isinstance(response, WholeResponse) else response

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
