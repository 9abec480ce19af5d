"""The command, which the kernel starts no thread for."""

from __future__ import annotations

from proxy.cli.main import main as command
from tests.support.unthreaded import start_no_more_threads

if __name__ == "__main__":
    start_no_more_threads()
    command()
