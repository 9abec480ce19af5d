"""The preflight of a kick-off: whether VB365 denies access to the parent (CONTRACT §3.4)."""

from __future__ import annotations

import asyncio

import structlog

from proxy.ports import Fields, Upstream, UpstreamFailure, WholeResponse
from proxy.upstream.credentials import Credentials
from proxy.upstream.turns import Standing, Turns
from proxy.upstream.whole_response import read_whole

log = structlog.get_logger(__name__)

#: Strangers cause many preflights at a time. A longer denial is left to the export's own response.
_MAX_BODY = 1 << 20


class Preflight:
    """Requests the parent resource of an export, each time in its turn. `timeout` is in seconds."""

    def __init__(self, upstream: Upstream, *, timeout: float, turns: Turns) -> None:
        self._upstream = upstream
        self._timeout = timeout
        self._turns = turns

    async def denial(
        self, parent: str, hosts: list[bytes], credentials: Credentials, *, known: bool
    ) -> WholeResponse | None:
        """Return VB365's 401, 403 or 404 for the parent resource, None for anything else. `known`:
        VB365 has accepted the credentials before.

        Path and Host are those of the kick-off, because the request stands for the caller's own.
        For the same reason a success proves nothing about the caller.
        """
        fields = [*((b"Host", value) for value in hosts), *credentials.fields]
        standing = Standing.KNOWN if known else Standing.UNKNOWN
        try:
            async with asyncio.timeout(self._timeout), self._turns.turn(standing):
                return await self._request(parent.encode("latin-1"), fields)
        except (UpstreamFailure, TimeoutError) as why:
            log.info("preflight failed", reason=str(why) or type(why).__name__)
            return None

    async def _request(self, target: bytes, fields: Fields) -> WholeResponse | None:
        response = await self._upstream.send(
            b"GET", target, fields, timeout=self._timeout, stall=self._timeout
        )
        try:
            if response.status not in (401, 403, 404):
                return None
            denial = await read_whole(response, _MAX_BODY)
            return denial if denial.complete else None
        finally:
            response.close()
