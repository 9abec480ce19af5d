"""The requests of access checks, whoever still waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from proxy.core.errors import Problem
from proxy.ports import Fields, Response, UpstreamUnreachable
from proxy.upstream.questions import Questions
from proxy.upstream.turns import Standing, Turns
from tests.unit.upstream.callers import credentials


class Failing:
    """A VB365 that fails when `gate` is set."""

    def __init__(self) -> None:
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.targets: list[bytes] = []

    async def send(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes = b"",
        *,
        timeout: float,
        stall: float,
    ) -> Response:
        self.targets.append(target)
        self.asked.set()
        await self.gate.wait()
        raise UpstreamUnreachable("down", delivered=True)

    async def close(self) -> None:
        """Nothing to close."""


async def test_9_a_question_that_fails_when_its_clients_have_left_is_no_error() -> None:
    """Strangers could otherwise fill the log with tracebacks."""
    vb365, reported = Failing(), list[dict[str, Any]]()
    questions = Questions(vb365, timeout=5, turns=Turns(1))
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    asked = asyncio.create_task(questions.status("/", credentials(), standing=Standing.UNKNOWN))
    await vb365.asked.wait()
    asked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asked
    vb365.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert not reported


@pytest.mark.parametrize("end", ["VB365 fails", "no response", "left before its turn"])
async def test_9_the_credentials_of_a_question_that_fails_are_released_at_once(end: str) -> None:
    """They may have 256 KiB, and no limit counts them after the response to their client."""
    vb365 = Failing()
    questions = Questions(vb365, timeout=60, turns=Turns(1))
    if end == "no response":
        questions = Questions(vb365, timeout=0.01, turns=Turns(1))
    gc.disable()
    try:
        async with asyncio.TaskGroup() as group:
            if end == "left before its turn":
                group.create_task(
                    _failed(questions.status("/", credentials(), standing=Standing.UNKNOWN))
                )
                await vb365.asked.wait()
            elif end == "VB365 fails":
                vb365.gate.set()
            who = credentials("Bearer other")
            kept = weakref.ref(who)
            asked = group.create_task(
                _failed(questions.status("/", who, standing=Standing.UNKNOWN))
            )
            del who
            if end == "left before its turn":
                await asyncio.sleep(0)
                asked.cancel()
            await asyncio.wait([asked])
            del asked
            for _ in range(10):
                await asyncio.sleep(0)
            released = kept() is None
            vb365.gate.set()
    finally:
        gc.enable()
    assert released


async def test_9_a_caller_that_vb365_accepts_meanwhile_has_a_turn_at_once() -> None:
    """The question about its credentials waits behind those of strangers, which take all of their
    turns.
    """
    vb365 = Failing()
    questions = Questions(vb365, timeout=5, turns=Turns(2))
    async with asyncio.TaskGroup() as group:
        for target in ("/stranger", "/", "/"):
            ask = questions.status(target, credentials(), standing=Standing.UNKNOWN)
            group.create_task(_failed(ask))
        await vb365.asked.wait()
        vb365.asked.clear()
        group.create_task(_failed(questions.status("/", credentials(), standing=Standing.KNOWN)))
        async with asyncio.timeout(2):
            await vb365.asked.wait()
        assert vb365.targets == [b"/stranger", b"/"]
        vb365.gate.set()
    assert vb365.targets == [b"/stranger", b"/", b"/"]


async def _failed(asked: Coroutine[Any, Any, int]) -> None:
    with pytest.raises(Problem):
        await asked
