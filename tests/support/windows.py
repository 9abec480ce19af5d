"""The command in a process without what Windows lacks: `python -m tests.support.windows serve …`.

It says that it runs on Windows, has no module or function that exists on POSIX only, and no signals
but those of Windows. Open files cannot be renamed or removed. The event loop is asyncio's
for POSIX: that of Windows (Proactor) and its file system cannot be had elsewhere.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import pkgutil
import select
import signal
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MODULES = ("fcntl", "grp", "pwd", "resource", "syslog", "termios", "uvloop")
_OF_OS = [
    "O_CLOEXEC",
    "O_DIRECTORY",
    "O_NOFOLLOW",
    "O_NONBLOCK",
    "RWF_NOWAIT",
    "chown",
    "copy_file_range",
    "fchmod",
    "fchown",
    "fork",
    "getegid",
    "geteuid",
    "getgid",
    "getuid",
    "initgroups",
    "killpg",
    "mkfifo",
    "posix_fadvise",
    "posix_fallocate",
    "pread",
    "preadv",
    "pwrite",
    "pwritev",
    "sched_getaffinity",
    "sendfile",
    "setgid",
    "setsid",
    "setuid",
    "sysconf",
    "wait4",
    "writev",
]
_OF_SIGNAL = [
    "SIGALRM",
    "SIGCHLD",
    "SIGHUP",
    "SIGKILL",
    "SIGPIPE",
    "SIGUSR1",
    "SIGUSR2",
    "pthread_sigmask",
]
_OF_SOCKET = ["AF_UNIX", "SO_REUSEPORT", "TCP_INFO", "send_fds", "recv_fds"]


def _msvcrt() -> types.ModuleType:
    module: Any = types.ModuleType("msvcrt")
    module.LK_LOCK, module.LK_NBLCK = 1, 2
    module.locking = lambda descriptor, mode, count: None
    return module  # type: ignore[no-any-return]


def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which fails for a file that this process has open, as on Windows."""

    def refuse(path: Any, *others: Any, **options: Any) -> Any:
        named = os.path.realpath(path)
        for descriptor in Path("/proc/self/fd").iterdir():
            if os.path.realpath(descriptor) == named:
                why: Any = PermissionError(13, "The file is in use", str(path))
                why.winerror = 32
                raise why
        return function(path, *others, **options)

    return refuse


def _no_signal_handler(*_: Any) -> None:
    raise NotImplementedError


def pretend() -> None:
    """Make this process one of Windows, as far as possible. Libraries are loaded before."""
    for name in ("aiohttp", "cryptography", "diskcache", "pydantic", "redis.asyncio", "obstore"):
        importlib.import_module(name)
    for name in ("prometheus_client", "rich.console", "structlog", "typer", "opentelemetry.sdk"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in _MODULES]:
        del sys.modules[name]
    sys.modules |= dict.fromkeys(_MODULES, None)  # type: ignore[arg-type]  # cannot be imported
    sys.modules["msvcrt"] = _msvcrt()
    socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)
    for module, names in ((os, _OF_OS), (signal, _OF_SIGNAL), (socket, _OF_SOCKET)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    del select.poll
    setattr(signal, "SIGBREAK", signal.SIGQUIT)  # noqa: B010  # unknown to the types
    for name in ("remove", "rename", "replace", "unlink"):
        setattr(os, name, refusing(getattr(os, name)))
    loop: Any = asyncio.SelectorEventLoop
    loop.add_signal_handler = _no_signal_handler
    sys.platform = "win32"


def import_everything() -> int:
    """Import every module of the proxy. Return how many there are."""
    import proxy

    names = [each.name for each in pkgutil.walk_packages(proxy.__path__, "proxy.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    return len(names)


if __name__ == "__main__":
    pretend()
    import_everything()
    from proxy.cli.main import main

    main()
