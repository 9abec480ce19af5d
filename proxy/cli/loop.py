"""The event loop of the commands that serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress

from proxy.ports import StoreUnavailable
from proxy.stores.threads import Threads


def run_loop(main: Coroutine[None, None, int]) -> int:
    """Run on uvloop if it is installed (it does not exist for Windows), else on asyncio's loop.

    VB365_LOOP=asyncio selects the latter, for tests and to find out whether uvloop is at fault.
    Raises `StoreUnavailable`, before it begins, if the system has no threads or descriptors for it.
    """
    runner = asyncio.Runner(loop_factory=_factory())
    try:
        _prepare(runner)
    except BaseException:
        with suppress(RuntimeError, OSError):
            runner.close()
        raise
    try:
        return runner.run(main)
    finally:
        try:
            runner.close()
        except RuntimeError as why:  # a thread waits for that executor, and cannot be started
            import structlog  # loaded by now, without the packages that serve does not need

            text = "the event loop was closed before its threads ended"
            structlog.get_logger(__name__).warning(text, reason=str(why))


def _prepare(runner: asyncio.Runner) -> None:
    """Make the loop and its threads."""
    try:
        loop = runner.get_loop()
        # a lack of threads must not end an export (`asyncio.to_thread`)
        loop.set_default_executor(Threads(None, "loop"))
        # uvloop starts its own threads with the first name, and aborts the process if it gets none
        with closing(loop.getaddrinfo("127.0.0.1", None)) as name:
            loop.run_until_complete(name)
    except OSError as why:
        raise StoreUnavailable(f"no event loop can be made: {why.strerror or why}") from why


def _factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.environ.get("VB365_LOOP") == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
