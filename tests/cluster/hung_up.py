"""The command, which gets SIGHUP in each of its processes before that listens."""

from __future__ import annotations

import os
import signal
from typing import Any

from proxy import app
from proxy.cli.main import main as command


def main() -> None:
    """Run the command."""
    start = app.start

    async def hung_up(*args: Any, **options: Any) -> app.Running:
        os.kill(os.getpid(), signal.SIGHUP)
        return await start(*args, **options)

    app.start = hung_up
    command()
