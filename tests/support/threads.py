"""Servers in a thread of their own, for clients that block, and a lack of threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar
from unittest import mock

from tests.support.wire import LIMIT

_T = TypeVar("_T")


@contextmanager
def in_thread(serving: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
    """Enter the context in a thread of its own, and exit it at the end of the block. Connections
    that are open then are aborted.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    started = Future[_T]()

    async def serve() -> None:
        try:
            async with serving as found:
                started.set_result(found)
                await stop.wait()
        except BaseException as why:
            if started.done():
                raise
            started.set_exception(why)
        finally:
            # a TLS connection waits for its client's close_notify, longer than the loop runs
            for transport in list(loop._transports.values()):  # type: ignore[attr-defined]
                transport.abort()
            await asyncio.sleep(0)

    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(loop.run_until_complete, serve())
        try:
            yield started.result(LIMIT)
        finally:
            loop.call_soon_threadsafe(stop.set)
            ended.result(2 * LIMIT)
            loop.close()


@contextmanager
def no_new_thread(why: Exception | None = None) -> Iterator[None]:
    """The system starts no thread, as at the limit of a container."""
    why = why or RuntimeError("can't start new thread")
    with mock.patch.object(threading.Thread, "start", side_effect=why):
        yield
