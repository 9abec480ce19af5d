"""A process that starts no thread any more."""

from __future__ import annotations

import ctypes
import os
import resource
import threading

_NOBODY = 65534


def start_no_more_threads() -> None:
    """Let the kernel refuse further threads of this process; Linux only."""
    if os.getuid() == 0:  # root has no limit
        os.setresuid(_NOBODY, _NOBODY, 0)
        ctypes.CDLL(None).setfsuid(0)  # Python itself may be in a directory of root's
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return
    raise AssertionError("a thread was started")
