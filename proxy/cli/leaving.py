"""The end of the process."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

#: A library whose threads may run Python's code at any time. If Python is being finalized by then,
#: the process is aborted (https://github.com/PyO3/pyo3-async-runtimes/issues/40).
_THREADED = "obstore"


def leave(why: SystemExit) -> None:
    """Leave the process with the status of `why`, without finalizing Python, if that is necessary.

    Everything but the log must be closed by now. Returns if Python can be finalized.
    """
    if _THREADED not in sys.modules or not (why.code is None or isinstance(why.code, int)):
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(why.code or 0)
