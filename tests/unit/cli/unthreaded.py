"""Looks a name up in a loop as the commands use it, while the kernel starts no thread."""

from __future__ import annotations

import asyncio
import sys

from proxy.cli.loop import run_loop
from tests.support.unthreaded import start_no_more_threads


async def _look_up() -> int:
    start_no_more_threads()
    return 0 if await asyncio.get_running_loop().getaddrinfo("localhost", 80) else 1


if __name__ == "__main__":
    sys.exit(run_loop(_look_up()))
