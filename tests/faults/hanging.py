"""The proxy as a program whose volume of files hangs, as that of a network file system does whose
server is away: from the moment on that a file `HANGS` is in its data directory.

The calls of the artifact store that hang are replaced here, in the process of the test alone.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

from proxy import app
from proxy.cli import main as command
from proxy.jobs import tasks
from proxy.stores.file_artifacts import files
from proxy.stores.file_artifacts.spool import Spool

HANGS = "hangs"


def main() -> None:
    """Run the command of the proxy, with short times for its end."""
    app.STOP_TIMEOUT = 3.0
    tasks._LATE = 0.5
    place = Path(sys.argv[sys.argv.index("--data-dir") + 1]) / HANGS
    for owner, name in (
        *((Spool, name) for name in ("append", "keep", "sync_early", "discard")),
        *((files, name) for name in ("free", "make_root", "opened", "read_at", "send", "survey")),
    ):
        setattr(owner, name, _hanging(getattr(owner, name), place))
    command.main()


def _hanging(call: Any, place: Path) -> Any:
    @functools.wraps(call)
    def hanging(*args: Any, **kwargs: Any) -> Any:
        while place.exists():
            time.sleep(0.05)
        return call(*args, **kwargs)

    return hanging
