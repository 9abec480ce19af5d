"""Synchronous exports of clients that only time out and try again, through replicas that fail
(CONTRACT §14, §18).
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import aiohttp

from tests.cluster.chaos import ClusterChaos
from tests.faults.chaos import AWAY
from tests.support.process import Caller

#: Seconds until a client gives up; the largest file takes four.
_LEAST, _MOST = 0.7, 6.0
_TRIES = 60


class RescueChaos(ClusterChaos):
    """As `ClusterChaos`; the clients send the same POST until they have the whole file."""

    async def call_for(self, http: aiohttp.ClientSession, todo: Any) -> None:
        """Each export for a client of its own, and sometimes for two."""
        for number in todo:
            path, size = self._prepare(number)
            token = self._simulator.login()
            clients = 2 if self.chance.random() < 0.3 else 1
            callers = [Caller(self.proxy, http, token) for _ in range(clients)]
            await asyncio.gather(*(self._export(each, path, size) for each in callers))

    async def _export(self, caller: Caller, path: str, size: int) -> None:
        patience = self.chance.uniform(_LEAST, _MOST)
        for number in range(_TRIES):
            self.tries[path] += 1
            try:
                async with asyncio.timeout(patience):
                    status, content = await caller.ask("POST", path)
            except AWAY:
                await asyncio.sleep(0.05)
                continue
            if status == 200:
                self._check_file(path, size, content)
                self.report.outcomes["Success"] += 1
                self.report.outcomes["tries before that"] += number
                return
            if status == 401:
                caller.token = self._simulator.login()
            self.report.reasons[f"answered {status}"] += 1
            await asyncio.sleep(0.2)
        self.report.outcomes["given up"] += 1

    def _check_file(self, path: str, size: int, content: bytes) -> None:
        """A response that looks whole is the whole file."""
        assert len(content) == size
        assert hashlib.sha256(content).hexdigest() == self._simulator.content(path).sha256()
        self.report.bytes += size
