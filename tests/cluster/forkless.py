"""The command with three workers, which the system refuses two further processes."""

from __future__ import annotations

import errno
import os

from proxy.cli.main import main as command

_REFUSED = (4, 5)


def main() -> None:
    """Run the command."""
    fork, calls = os.fork, 0

    def refused() -> int:
        nonlocal calls
        calls += 1
        if calls in _REFUSED:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    os.fork = refused
    command()
