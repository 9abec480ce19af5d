"""The command with three workers. The next one has no memory, neither to start nor to end."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from proxy import logs
from proxy.cli.main import main as command

_FIRST = 3


def main() -> None:
    """Run the command."""
    fork, calls = os.fork, 0

    def without_memory(**_: Any) -> Any:
        raise MemoryError

    def counted() -> int:
        nonlocal calls
        calls += 1
        pid = fork()
        if pid == 0 and calls == _FIRST + 1:
            asyncio.Runner = logs.close = without_memory  # type: ignore[assignment,misc]
        return pid

    os.fork = counted
    command()
