"""Several processes that listen on one port and behave as one proxy (CONTRACT §15 `--workers`).

Theory of operation. The supervisor makes the listening sockets, a set of its own for every worker,
and keeps them open: connections that the system gives to the sockets of a worker that has died wait
there until its replacement accepts them. It forks the workers, replaces each one that ends, passes
SIGTERM and SIGHUP on, and runs nothing else: no event loop, no thread but that of the log. When it
stops, no worker is replaced any more, so that it closes the sockets: what waits there is refused.

    STARTING ── every worker listens ──> SERVING ── SIGTERM, SIGINT ──> STOPPING ── all ended
    STARTING ── a worker ends ──> STOPPING, with its exit code

If the jobs are on disk, the first worker owns them. The others do TLS, heads and pass-through, and
hand every other request to the first one over a Unix socket, which the supervisor keeps open too.
If the supervisor dies, the workers notice and stop.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog

from proxy import logs
from proxy.app import DRAIN_TIMEOUT, StartFailed
from proxy.config.settings import Settings
from proxy.net.board import Board
from proxy.net.budget import Tally
from proxy.net.listening import listen, listen_at
from proxy.net.notify import READY, STOPPING, notify
from proxy.net.seat import Handover, Seat
from proxy.net.socket_directory import socket_directory

log = structlog.get_logger(__name__)

#: Seconds that workers have beyond `DRAIN_TIMEOUT` to end before they are killed.
_MARGIN = 10.0
#: A worker that lived for fewer seconds is replaced only after a pause, which doubles each time.
_SHORT, _LONGEST_PAUSE = 10.0, 30.0
_SCHEMES = (b"http", b"https")

#: The exit codes of a worker that was stopped; the negative ones of one that had just been started.
_STOPPED = (0, -signal.SIGTERM, -signal.SIGINT)

#: Runs a worker and returns its exit code.
Work = Callable[[Seat], int]


class _State(Enum):
    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(slots=True)
class _Worker:
    """One seat and the process on it, if any. Times are of the monotonic clock."""

    index: int
    sockets: list[socket.socket]
    pid: int = 0
    ready: int = -1
    since: float = 0.0
    #: What it reported: its address, that of the admin listener, and what its start found.
    addresses: tuple[str, ...] = ()
    restart_at: float | None = None
    pause: float = 0.0

    def restart(self, *, soon: bool) -> None:
        """Start it again: at once, or after a pause that doubles each time."""
        self.pause = 0.0 if soon else min(max(1.0, self.pause * 2), _LONGEST_PAUSE)
        self.restart_at = time.monotonic() + self.pause


def run(settings: Settings, work: Work, about: Mapping[str, Any]) -> int:
    """Run `listen.workers` workers until SIGTERM or SIGINT. Return the exit code.

    `about` is logged once all workers listen. Raises `StartFailed` if the address cannot be used.
    """
    with contextlib.ExitStack() as stack:
        return _Supervisor(settings, work, stack, about).run()


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        work: Work,
        stack: contextlib.ExitStack,
        about: Mapping[str, Any],
    ) -> None:
        self._settings = settings
        self._about = about
        self._work = work
        self._state = _State.STARTING
        self._status = ""
        self._code = 0
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._workers = [
            _Worker(index, sockets) for index, sockets in enumerate(_client_sockets(settings))
        ]
        self._handover = _handover(stack) if settings.storage.jobs == "disk" else None
        self._board = Board(len(self._workers))
        tallies = [Tally(len(self._workers)) for _ in range(4)]
        self._heads, self._bodies, self._strange_bodies, self._strange_rescues = tallies
        self._alive = os.pipe()
        self._signals = socket.socketpair()

    def run(self) -> int:
        """Start the workers and watch them until all have ended."""
        self._watch_signals()
        for worker in self._workers:
            self._start(worker)
        deadline: float | None = None
        while self._state is _State.SERVING or any(worker.pid for worker in self._workers):
            for key, _ in self._selector.select(self._timeout(deadline)):
                key.data()
            if self._state is _State.STOPPING:
                deadline = deadline or time.monotonic() + DRAIN_TIMEOUT + _MARGIN
                if time.monotonic() >= deadline:
                    self._signal_all(signal.SIGKILL)
            else:
                self._restart_due()
        log.info("stopped")
        return self._code

    def _timeout(self, deadline: float | None) -> float | None:
        moments = [each.restart_at for each in self._workers if each.restart_at is not None]
        if self._state is _State.STOPPING:
            moments = [] if deadline is None else [deadline]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # Workers.

    def _start(self, worker: _Worker) -> None:
        """Start the worker, or try again after a pause. Raises `StartFailed` for the first time."""
        try:
            self._fork(worker)
        except OSError as why:  # no memory, or no process or descriptor left
            reason = why.strerror or str(why)
            if self._state is _State.STARTING:
                raise StartFailed(f"worker {worker.index} was not started: {reason}") from why
            worker.restart(soon=False)
            log.warning(
                "worker not started", worker=worker.index, reason=reason, pause=worker.pause
            )

    def _fork(self, worker: _Worker) -> None:
        with contextlib.ExitStack() as undo:
            readable, writable = os.pipe()
            undo.callback(os.close, writable)
            undo.callback(os.close, readable)
            self._selector.register(
                readable, selectors.EVENT_READ, lambda: self._reported(worker, readable)
            )
            undo.callback(self._selector.unregister, readable)
            worker.pid = self._forked(worker, readable, writable)
            undo.pop_all()
        os.close(writable)
        worker.ready, worker.since, worker.restart_at = readable, time.monotonic(), None
        worker.addresses = ()

    def _forked(self, worker: _Worker, readable: int, writable: int) -> int:
        """Fork the worker. Return its process id, in the supervisor only."""
        seat = Seat(
            index=worker.index,
            count=len(self._workers),
            sockets=worker.sockets,
            handover=self._handover,
            board=self._board,
            heads=self._heads,
            bodies=self._bodies,
            strange_bodies=self._strange_bodies,
            strange_rescues=self._strange_rescues,
            ready=writable,
            alive=self._alive[0],
        )
        # one that arrives before the worker drops the handlers of the supervisor would be lost
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _signals())
        try:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = self._child(seat, readable, mask)
                finally:
                    os._exit(code)  # whatever fails: it must not close what the others use
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _child(self, seat: Seat, readable: int, mask: set[int]) -> int:
        """Run the worker in its own process. Nothing of the supervisor runs there afterwards."""
        try:
            signal.set_wakeup_fd(-1)
            for number in _signals():
                ignored = number == signal.SIGHUP  # until the worker handles it
                signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._selector.close()
            others = [each.ready for each in self._workers if each.ready >= 0]
            for descriptor in (readable, self._alive[1], *others):
                os.close(descriptor)
            for sock in (*self._signals, *self._foreign_sockets(seat.index)):
                sock.close()
            return self._work(seat)
        except BaseException:
            log.exception("worker failed", worker=seat.index)
            return 1
        finally:
            logs.close()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()

    def _foreign_sockets(self, index: int | None) -> Iterator[socket.socket]:
        """Those that are not for worker `index`; None is the supervisor, which accepts nothing."""
        for worker in self._workers:
            if worker.index != index:
                yield from worker.sockets
        if index != 0 and self._handover is not None:
            yield from self._handover.sockets.values()

    def _reported(self, worker: _Worker, readable: int) -> None:
        """Read lines of the worker: that it listens, then its status. It closes the pipe, at the
        latest when it ends.
        """
        data = os.read(readable, 4096)
        if not data:
            self._selector.unregister(readable)
            os.close(readable)
            if worker.ready == readable:
                worker.ready = -1
        for line in data.decode().splitlines():
            if worker.addresses:
                self._show(line)
                continue
            worker.addresses = tuple(line.split())
            if self._state is _State.STARTING and all(each.addresses for each in self._workers):
                self._serve()

    def _show(self, status: str) -> None:
        """Show the status of the first worker, which has all jobs or is one of several replicas.
        While others start, it is kept: the worker does not report it again until it changes.
        """
        self._status = status if self._handover else f"first of {len(self._workers)}: {status}"
        if self._state is _State.SERVING:
            notify(status=self._status)

    def _serve(self) -> None:
        self._state = _State.SERVING
        url = self._workers[0].addresses[0]
        logs.say(f"listening on {url}")  # CONTRACT §15: the ready line
        upstream, count = self._settings.upstream.url, len(self._workers)
        admin, *found = self._workers[0].addresses[1:]
        log.info("started", **self._about, admin=admin, **_numbers(found))
        notify(READY, status=f"listening on {url} in front of {upstream} with {count} workers")
        if self._status:
            notify(status=self._status)

    def _ended(self, worker: _Worker, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        lived = time.monotonic() - worker.since
        worker.pid = 0
        if self._state is _State.STARTING:
            self._stop(code if code > 0 else 1)
        elif self._state is _State.SERVING:
            worker.restart(soon=lived >= _SHORT)
            log.error(
                "worker ended, another replaces it",
                worker=worker.index,
                reason=f"signal {-code}" if code < 0 else f"exit code {code}",
                pause=worker.pause,
            )
        elif code not in _STOPPED and not self._code:
            self._code = code if code > 0 else 1

    def _restart_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.restart_at is not None and worker.restart_at <= now:
                self._start(worker)

    def _stop(self, code: int) -> None:
        self._state, self._code = _State.STOPPING, code
        log.info("stopping")
        notify(
            STOPPING, status=f"stopping: requests in flight have {DRAIN_TIMEOUT:.0f} s to finish"
        )
        self._signal_all(signal.SIGTERM)
        for sock in self._foreign_sockets(None):
            sock.close()

    def _signal_all(self, number: int) -> None:
        for worker in self._workers:
            if worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    # Signals.

    def _watch_signals(self) -> None:
        receiver, sender = self._signals
        receiver.setblocking(False)
        sender.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in _signals():
            signal.signal(number, lambda *_: None)
        self._selector.register(receiver, selectors.EVENT_READ, self._signalled)

    def _signalled(self) -> None:
        # SIGCHLD is the highest: a stop comes before the ends of workers that got the same signal
        for number in sorted(set(self._signals[0].recv(4096))):
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._signal_all(signal.SIGHUP)
            elif self._state is not _State.STOPPING:
                self._stop(0)

    def _reap(self) -> None:
        for worker in self._workers:
            if worker.pid:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    self._ended(worker, status)


def _numbers(words: Sequence[str]) -> dict[str, int]:
    pairs = (word.partition("=") for word in words)
    return {name: int(number) for name, _, number in pairs}


def _client_sockets(settings: Settings) -> list[list[socket.socket]]:
    """Listening sockets for every worker, all on the same addresses. Raises `StartFailed`."""
    address = settings.listen.address
    made: list[list[socket.socket]] = []
    port = address.port
    try:
        for _ in range(settings.listen.workers):
            found = socket.getaddrinfo(
                address.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            made.append(listen(found, reuse_port=True))
            port = made[0][0].getsockname()[1]
    except OSError as why:
        raise StartFailed(
            f"listen.address {address}: {why}. Choose another with --listen."
        ) from why
    return made


def _handover(stack: contextlib.ExitStack) -> Handover:
    """Unix sockets in a directory that only this user can enter."""
    directory = stack.enter_context(socket_directory("vb365-async-proxy-"))
    paths = {scheme: directory / f"{scheme.decode()}.sock" for scheme in _SCHEMES}
    return Handover(paths=paths, sockets={s: listen_at(path) for s, path in paths.items()})


def _signals() -> tuple[signal.Signals, ...]:
    """Those that the supervisor handles. Windows, which has no workers, lacks two of them."""
    return signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD
