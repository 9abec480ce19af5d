"""Answers what the door keeps back from the relay: one way in, and errors rendered in one place."""

from __future__ import annotations

import structlog
from aiohttp import web

from proxy.api.kickoff import KickoffHandler
from proxy.api.resources import Resources
from proxy.api.responses import ApiRequest, ApiResponse, problem_answer
from proxy.core.errors import Problem
from proxy.core.http.heads import Head
from proxy.core.routing import BadSwitch, Decision, Kickoff, Own
from proxy.ports import StoreUnavailable

log = structlog.get_logger(__name__)

_STORE_RETRY_AFTER = 5


class ApiRouter:
    """The handler of every request that is ours."""

    def __init__(self, gateway: KickoffHandler, resources: Resources) -> None:
        self._gateway = gateway
        self._resources = resources

    async def handle(self, request: web.BaseRequest, head: Head, decision: Decision) -> ApiResponse:
        """Answer the request; every `Problem` as CONTRACT §11 shows it.

        `head` is the head as the client sent it, `decision` what `core.routing` made of it.
        """
        asked = ApiRequest(request, head, decision)
        try:
            return await self._answer(asked)
        except Problem as problem:
            log.info("refused", problem=problem.name, status=problem.status, path=asked.path)
            return problem_answer(problem, asked)
        except StoreUnavailable as why:
            log.warning("store not available", reason=str(why))
            detail = "The proxy cannot read or write its jobs now. Try again."
            return problem_answer(
                Problem("store-unavailable", detail, retry_after=_STORE_RETRY_AFTER), asked
            )

    async def _answer(self, asked: ApiRequest) -> ApiResponse:
        decision = asked.decision
        match decision:
            case Kickoff():
                return await self._gateway.kickoff(asked, decision)
            case Own():
                return await self._resources.answer(asked, decision)
            case BadSwitch(detail):
                raise Problem("invalid-async-parameter", detail)
            case _:
                raise TypeError(f"not a decision for the service: {decision!r}")
