"""The proxy as a program whose volume of files hangs, as that of a network file system does whose
server is away: while a file `HANGS` is in its data directory.

The file names the calls that hang. They are replaced here, in the process of the test alone.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from pathlib import Path
from typing import Any

from proxy import app
from proxy.cli import late
from proxy.cli import main as command
from proxy.jobs import tasks
from proxy.parts import start_checks
from proxy.stores.file_artifacts import files
from proxy.stores.file_artifacts.spool import Spool

HANGS = "hangs"
#: The calls for the files of exports.
FILES = "append keep sync_early discard free make_root opened read_at send survey"


def main() -> None:
    """Run the command of the proxy, with short times for its start and its end."""
    app.STOP_TIMEOUT = 3.0
    late._PAUSE = 0.2
    tasks._LATE = 0.5
    place = Path(sys.argv[sys.argv.index("--data-dir") + 1]) / HANGS
    owners: tuple[Any, ...] = (files, Spool, start_checks)
    for name in [*FILES.split(), "startup_problems"]:
        owner = next(each for each in owners if hasattr(each, name))
        setattr(owner, name, _hanging(getattr(owner, name), place))
    command.main()


def _hanging(call: Any, place: Path) -> Any:
    @functools.wraps(call)
    def hanging(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            while call.__name__ in place.read_text(encoding="ascii"):
                time.sleep(0.05)
        return call(*args, **kwargs)

    return hanging
