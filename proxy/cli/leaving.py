"""The end of the process."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading

log = logging.getLogger(__name__)

#: A library whose threads may run Python's code at any time. If Python is being finalized by then,
#: the process is aborted (https://github.com/PyO3/pyo3-async-runtimes/issues/40).
_THREADED = "obstore"


def leave(why: SystemExit) -> None:
    """Leave the process with the status of `why`, without finalizing Python, if that is necessary.

    Everything but the log must be closed by now. Returns if Python can be finalized.
    """
    if _THREADED not in sys.modules or not (why.code is None or isinstance(why.code, int)):
        return
    _leave_now(why.code or 0)


def leave_within(seconds: float) -> None:
    """Leave the process in any case: with status 1 if it is still there after `seconds`.

    A thread that hangs in a file of a volume that does not respond can neither be interrupted nor
    be waited for, and Python waits for all threads before it ends. While the system starts no
    thread, the process is left to whoever started it.
    """
    timer = threading.Timer(seconds, _leave_late)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread: the stop itself must go on
        timer.start()


def _leave_late() -> None:
    log.error("stopped although not all work has ended: exports are resumed at the next start")
    _leave_now(1)


def _leave_now(code: int) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
