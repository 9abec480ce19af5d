"""Processes of the proxy that are forked from one that has imported it: each starts a second of CPU
earlier than `python -m proxy`, and is otherwise like it.

This file is also the program of the server that forks them; it ends with the tests.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The longest request: a command and its environment.
_LONGEST = 128 << 10
#: The module of the command.
COMMAND = "proxy.cli.main"
#: What `serve` imports. It starts no thread, and opens no file.
_IMPORTED = (COMMAND, "proxy.cli.serve", "redis.asyncio", "uvloop")


class Forked:
    """A process that runs a command of the proxy. It has the interface of
    `asyncio.subprocess.Process` as far as `ProxyProcess` uses it.
    """

    def __init__(self, pid: int, stderr: asyncio.StreamReader, status: socket.socket) -> None:
        self.pid = pid
        self.stderr = stderr
        # a signal through it never reaches another process that got the same id
        self._handle = os.pidfd_open(pid)
        self._status = status
        self._code: int | None = None

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError if the process has ended."""
        signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """The exit code, or the negative number of the signal."""
        if self._code is None:
            self._code = await _number(self._status)
            self._status.close()
            os.close(self._handle)
        return self._code


async def fork(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    descriptors: int | None,
    program: str = COMMAND,
) -> Forked:
    """Start a command of the proxy with a pipe as its stderr. `descriptors` is its limit of open
    files, `program` the module whose `main` it runs.
    """
    loop = asyncio.get_running_loop()
    request = json.dumps([arguments, dict(environment), descriptors, program]).encode()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    reading, writing = os.pipe()
    try:
        socket.send_fds(_server(), [request], [theirs.fileno(), writing])
    finally:
        theirs.close()
        os.close(writing)
    stderr = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(reading, "rb", buffering=0)
    )
    return Forked(await _number(ours), stderr, ours)


async def _number(status: socket.socket) -> int:
    data = await asyncio.get_running_loop().sock_recv(status, 64)
    assert data, "the server has ended"
    return int(data)


@functools.cache
def _server() -> socket.socket:
    """The connection to the server, which runs from the first use to the end of this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(theirs.fileno())],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


# the server


def _serve(requests: socket.socket) -> str:
    """Fork for each request until the tests end; return the program of a forked process, "" of the
    server itself.
    """
    wakeup, woken = socket.socketpair()
    for each in (wakeup, woken):
        each.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and so the server
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([requests, wakeup], [], [])
        if wakeup in ready:
            wakeup.recv(4096)
            _report(running)
        if requests not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(requests, _LONGEST, 2)
        if not data:
            return ""
        status, stderr = socket.socket(fileno=descriptors[0]), descriptors[1]
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for mine in (requests, wakeup, woken, status, *running.values()):
                os.close(mine.detach())
            *state, program = json.loads(data)
            _become(*state, stderr=stderr)
            return str(program)
        os.close(stderr)
        running[pid] = status
        with contextlib.suppress(OSError):
            status.send(str(pid).encode())


def _report(running: dict[int, socket.socket]) -> None:
    """Send the exit codes of the processes that have ended."""
    for pid in list(running):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with running.pop(pid) as waiting, contextlib.suppress(OSError):
                waiting.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(
    arguments: list[str], environment: dict[str, str], descriptors: int | None, *, stderr: int
) -> None:
    """Give this process what a new one has."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(stderr, 2)
    os.close(stderr)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["proxy", *arguments]
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


def _main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    if program := _serve(requests):
        gc.unfreeze()
        importlib.import_module(program).main()


if __name__ == "__main__":
    _main()
