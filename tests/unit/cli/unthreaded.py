"""Looks a name up in a loop as the commands use it, while the kernel starts no thread."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading

from proxy.cli.loop import run_loop


async def _look_up() -> int:
    if os.getuid() == 0:  # root has no limit
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        found = await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        return 0 if found else 1
    return 2


if __name__ == "__main__":
    sys.exit(run_loop(_look_up()))
