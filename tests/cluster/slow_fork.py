"""The command with three workers, whose next ones get the processor late."""

from __future__ import annotations

import os
import time

from proxy.cli.main import main as command

_FIRST, _LATE = 3, 1.0


def main() -> None:
    """Run the command."""
    fork, calls = os.fork, 0

    def slow() -> int:
        nonlocal calls
        calls += 1
        pid = fork()
        if pid == 0 and calls > _FIRST:
            time.sleep(_LATE)
        return pid

    os.fork = slow
    command()
