"""The command with three workers, which the system refuses two further processes, or with WATCHLESS
in the environment one further watch of a descriptor.
"""

from __future__ import annotations

import errno
import os
import selectors
from typing import Any

from proxy.cli.main import main as command

#: One for signals, and one for each worker.
_WATCHES = 1 + 3
_REFUSED = (4, 5)


def main() -> None:
    """Run the command."""
    fork, register = os.fork, selectors.DefaultSelector.register
    supervisor, watches, forks = os.getpid(), 0, 0

    def watch(selector: Any, *given: Any) -> Any:
        nonlocal watches
        watches += os.getpid() == supervisor
        if watches == _WATCHES + 1 and os.getpid() == supervisor:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return register(selector, *given)

    def refused() -> int:
        nonlocal forks
        forks += 1
        if forks in _REFUSED:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    if "WATCHLESS" in os.environ:
        selectors.DefaultSelector.register = watch  # type: ignore[method-assign, assignment]
    else:
        os.fork = refused
    command()
