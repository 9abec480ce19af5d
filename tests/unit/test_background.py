"""What runs in the background goes on after an error."""

from __future__ import annotations

import asyncio

import pytest

from proxy.parts import background
from proxy.parts.background import keep_running


async def test_a_task_that_fails_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """§15: without memory for a moment, the proxy does not lose what guards it until a restart."""
    monkeypatch.setattr(background, "_PAUSE", 0.001)
    errors: list[Exception] = [MemoryError(), ValueError("a bad record")]
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        if errors:
            raise errors.pop()

    async with asyncio.timeout(5):
        await keep_running(run)
    assert runs == 3


async def test_a_task_that_is_cancelled_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.Event()

    async def run() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_running(run))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
