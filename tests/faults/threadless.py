"""The command, which starts no thread any more after SIGUSR1."""

from __future__ import annotations

import signal
import sys

from proxy.cli.main import main as command
from tests.support.threads import no_new_thread

SAID = "no more threads\n"


def main() -> None:
    """Run the command."""
    lack = no_new_thread()

    def begin(*_: object) -> None:
        lack.__enter__()
        sys.stderr.write(SAID)
        sys.stderr.flush()

    signal.signal(signal.SIGUSR1, begin)
    command()
