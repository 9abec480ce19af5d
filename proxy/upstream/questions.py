"""The requests of access checks (CONTRACT §2: nothing of the caller's but Authorization and
Cookie).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from proxy.ports import Response, Upstream, UpstreamFailure
from proxy.upstream.credentials import Credentials
from proxy.upstream.problems import unreachable
from proxy.upstream.turns import Standing, Turns


class _Question:
    """One request, which may be waiting for its turn, and the number of those who wait for its
    response.
    """

    #: Its result is VB365's status, None without one. An exception would keep the credentials, by
    #: way of its traceback and this, until the garbage collector runs.
    task: asyncio.Task[int | None]

    def __init__(self, standing: Standing, generation: int) -> None:
        self.standing = standing
        self.generation = generation
        self.sent = False
        self.waiting = 0

    @property
    def dropped(self) -> bool:
        """Whether it is not sent because nobody waits for it any more."""
        return not (self.sent or self.waiting)

    def serves(self, standing: Standing, generation: int) -> bool:
        """Whether an equal question can wait for its response. If VB365 has accepted the
        credentials since this one began to wait, it would wait longer than its own turn takes.
        """
        return self.generation == generation and (
            self.sent or (self.waiting > 0 and self.standing >= standing)
        )


#: VB365's statuses by credentials and target, shared by the checks of one request. Denials are
#: included, so that a list checks each session once however many jobs it has.
Statuses = dict[tuple[Credentials, str], _Question]


class Questions:
    """Sends GET requests to VB365 of which only the status counts, each in its turn. `timeout` is
    in seconds.
    """

    def __init__(self, upstream: Upstream, *, timeout: float, turns: Turns) -> None:
        self._upstream = upstream
        self._timeout = timeout
        self._turns = turns
        self._pending: Statuses = {}
        self._generation = 0

    def repeat(self) -> None:
        """Let no response count to a question that was asked before: it is asked again."""
        self._generation += 1

    async def status(
        self,
        target: str,
        credentials: Credentials,
        statuses: Statuses | None = None,
        *,
        standing: Standing,
    ) -> int:
        """Return VB365's status for a GET. Equal concurrent requests are sent once. Raises
        `Problem` 503.

        A request that waits for its turn is dropped with the last one who waits for it. One that
        was sent is not: VB365 may work on, and clients that leave must not multiply its load.
        """
        key = (credentials, target)
        while True:
            question = (statuses or {}).get(key) or self._pending.get(key)
            if question is None or not question.serves(standing, self._generation):
                question = self._pending[key] = _Question(standing, self._generation)
                question.task = asyncio.create_task(self._get(key, question))
            if statuses is not None:
                statuses[key] = question
            status = await self._response(question)
            if question.generation == self._generation:
                return status

    async def _response(self, question: _Question) -> int:
        """Return VB365's status. Raises `Problem` 503."""
        question.waiting += 1
        try:
            status = await asyncio.shield(question.task)
        finally:
            question.waiting -= 1
            if question.dropped:
                question.task.cancel()
        if status is None:
            raise unreachable()
        return status

    async def _get(self, key: tuple[Credentials, str], question: _Question) -> int | None:
        target, until = key[1].encode("latin-1"), asyncio.get_running_loop().time() + self._timeout
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout_at(until):
                    await stack.enter_async_context(self._turns.turn(question.standing))
                    question.sent = True
                    response = await self._upstream.send(
                        b"GET", target, key[0].fields, timeout=self._timeout, stall=self._timeout
                    )
                return await self._status_of(response)
        except (UpstreamFailure, TimeoutError):
            return None
        finally:
            if self._pending.get(key) is question:
                del self._pending[key]
            # the CancelledError of a dropped one refers to this frame
            del question

    async def _status_of(self, response: Response) -> int:
        """Return the status, once a short body is read to its end, so that the connection can be
        reused.
        """
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(8):
                    if not await response.read():
                        break
        except (UpstreamFailure, TimeoutError):
            pass  # only the status matters; close() drops the connection
        finally:
            response.close()
        return response.status
