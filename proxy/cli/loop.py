"""The event loop of the commands that serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


def run_loop(main: Coroutine[None, None, int]) -> int:
    """Run on uvloop if it is installed (it does not exist for Windows), else on asyncio's loop."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop

        loop_factory = uvloop.new_event_loop
    except ImportError:
        pass
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)
