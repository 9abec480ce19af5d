"""The event loop of the commands that serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine

from proxy.stores.threads import Threads


def run_loop(main: Coroutine[None, None, int]) -> int:
    """Run on uvloop if it is installed (it does not exist for Windows), else on asyncio's loop.

    VB365_LOOP=asyncio selects the latter, for tests and to find out whether uvloop is at fault.
    Raises `StoreUnavailable`, before it begins, if the system starts no thread.
    """
    runner = asyncio.Runner(loop_factory=_factory())
    try:
        loop = runner.get_loop()
        # a lack of threads must not end an export (`asyncio.to_thread`)
        loop.set_default_executor(Threads(None, "loop"))
        # uvloop starts its own threads with the first name, and aborts the process if it gets none
        loop.run_until_complete(loop.getaddrinfo("127.0.0.1", None))
        return runner.run(main)
    finally:
        try:
            runner.close()
        except RuntimeError as why:  # a thread waits for that executor, and cannot be started
            import structlog  # loaded by now, without the packages that serve does not need

            text = "the event loop was closed before its threads ended"
            structlog.get_logger(__name__).warning(text, reason=str(why))


def _factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.environ.get("VB365_LOOP") == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
