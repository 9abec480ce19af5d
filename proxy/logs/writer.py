"""A handler that leaves the writing to a thread: a slow disk, or a slow reader of stderr, does not
stall the event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from proxy.logs.direct import DirectEvent, Entry, LineHandler

#: Bytes of the lines that may wait. More lines are lost, and their number is logged.
_MOST = 8 << 20
#: Direct events that are rendered together: one after the other they take half of the time. And
#: seconds after which fewer are.
_TOGETHER, _COLLECTING = 32, 0.1
#: Seconds until lines that could not be written are tried again, and until `close` gives up.
_RETRY, _CLOSING = 1.0, 5.0


class Sink(Protocol):
    """Takes lines. Its methods block."""

    #: How many bytes are written at once, if they are more than one line.
    batch: int

    def write(self, lines: bytes) -> int:
        """Write lines that end with a line feed. Return the number of bytes that need not be
        written again. Raises `OSError` if nothing can be written for the moment.
        """

    def close(self) -> None:
        """Close what `write` has opened."""


class _Waiting:
    """What waits for the thread of one process: lines, and the last direct events, which are
    rendered together. Use it under its lock; only the thread calls `wait` and `take`, without it.
    """

    def __init__(self) -> None:
        # reentrant: the garbage collector may run something that logs at any time
        self.lock = threading.RLock()
        self.events: list[Entry] = []
        #: Each is one line, or several that were rendered together.
        self.lines: deque[bytes] = deque()
        #: Bytes of the lines that were ever added, and of those that were taken.
        self.added = self.taken = 0
        self.lost = 0
        #: Set if there is something; if it is urgent; if there will be no more.
        self.some, self.urgent, self.closing = (threading.Event() for _ in range(3))

    def add(self, lines: str) -> bool:
        """Add lines after the events, and return whether there is space for them."""
        data = lines.encode(errors="backslashreplace")
        added = self.added + len(data)
        if added - self.taken > _MOST:
            return False
        self.added = added
        self.lines.append(data)
        if not self.some.is_set():
            self.some.set()
        return True

    def wait(self) -> bool:
        """Wait for something. Return whether more may come after what is there now."""
        self.some.wait()
        self.urgent.wait(_COLLECTING)
        self.some.clear()
        self.urgent.clear()
        return not self.closing.is_set()

    def take(self, size: int) -> bytes:
        """Return as many lines as have at most `size` bytes, at least one if there are any."""
        taken: list[bytes] = []
        while self.lines and (size > 0 or not taken):
            lines = self.lines.popleft()
            if len(lines) > size:
                lines, rest = _cut(lines, size, at_least_one=not taken)
                if rest:
                    self.lines.appendleft(rest)
                size = 0
            taken.append(lines)
            size -= len(lines)
        lines = b"".join(taken)
        self.taken += len(lines)
        return lines


def _cut(lines: bytes, size: int, *, at_least_one: bool) -> tuple[bytes, bytes]:
    """The lines that have at most `size` bytes in all, and the others."""
    end = lines.rfind(b"\n", 0, size) + 1
    if not end and at_least_one:
        end = lines.index(b"\n") + 1
    return lines[:end], lines[end:]


#: All of this process, which is asked for its number too often for each line.
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


class Writer(LineHandler):
    """Formats entries, and writes them and the lines of direct events to the sink in a thread, in
    order.

    A direct event waits for others for at most 0.1 s, an entry does not wait. The thread starts
    with the first of them: a process that was forked has one of its own. What comes after `close`
    waits for another `close`: while Python is being finalized, a thread that is started hangs its
    caller.
    """

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink
        self._thread: threading.Thread | None = None
        self._closed = False
        self._waiting = _Waiting()
        _writers.add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        try:
            line = self.format(record) + "\n"
            waiting = self._current()
            with waiting.lock:
                self._render(waiting)
                self._add(waiting, line)
            waiting.urgent.set()
        except Exception:  # noqa: BLE001  # as every handler of logging does
            self.handleError(record)

    def put(self, event: DirectEvent, values: Sequence[object]) -> None:
        """Write the line of an event that happens now, together with others."""
        waiting = self._waiting if self._thread is not None else self._current()
        now = (event, values, time.time_ns())
        with waiting.lock:
            waiting.events.append(now)
            if len(waiting.events) >= _TOGETHER:
                self._render(waiting)
            elif len(waiting.events) == 1:
                waiting.some.set()

    def close(self) -> None:
        """Write what waits, for at most a few seconds, and close the sink. Idempotent."""
        self.acquire()
        try:
            self._closed = True
            thread, self._thread = self._thread, None
            waiting, self._waiting = self._waiting, _Waiting()
        finally:
            self.release()
        with waiting.lock:
            self._render(waiting)
            self._note_loss(waiting)
        for event in (waiting.closing, waiting.urgent, waiting.some):
            event.set()
        if thread is not None:
            thread.join(_CLOSING)
        elif waiting.lines:
            self._run(waiting)
        super().close()

    def forget(self) -> None:
        """Called in a process that was forked: the thread and what waits are its parent's."""
        self._thread, self._waiting = None, _Waiting()

    def _current(self) -> _Waiting:
        """What waits in this process, whose thread runs, or is started with a later entry if the
        system starts none now.
        """
        if self._thread is None and not self._closed:
            self.acquire()  # logging makes a new lock for a process that was forked
            try:
                if self._thread is None and not self._closed:
                    self._start()
            finally:
                self.release()
        return self._waiting

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, args=(self._waiting,), name="log", daemon=True)
        self._thread = thread  # before it starts: what is logged by then must not start another
        try:
            with _without_signals():
                thread.start()
        except (RuntimeError, MemoryError):
            self._thread = None

    def _render(self, waiting: _Waiting) -> None:
        entries, waiting.events = waiting.events, []
        try:
            for event, same in groupby(entries, itemgetter(0)):
                self._add(waiting, event.lines(self.direct, same))
        except MemoryError:
            waiting.lost += len(entries)
            raise

    def _add(self, waiting: _Waiting, lines: str) -> None:
        if waiting.lost:
            self._note_loss(waiting)
        if waiting.lost or not waiting.add(lines):
            waiting.lost += lines.count("\n")

    def _note_loss(self, waiting: _Waiting) -> None:
        note = f"{waiting.lost} entries are lost: they could not be written in time"
        if waiting.lost and waiting.add(self._entry(note) + "\n"):
            waiting.lost = 0

    def _run(self, waiting: _Waiting) -> None:
        more, last = True, False
        while more:
            try:
                more = waiting.wait()
                with waiting.lock:
                    self._render(waiting)
                while lines := waiting.take(self._sink.batch):
                    self._write(lines, waiting.closing)
            except MemoryError:  # some entries may be lost, but not all that follow
                more, last = not last, waiting.closing.wait(_RETRY)
                waiting.some.set()
        self._sink.close()

    def _write(self, lines: bytes, closing: threading.Event) -> None:
        """Write the lines, repeatedly until that succeeds or the handler is closed."""
        failed = False
        while lines:
            try:
                lines = lines[self._sink.write(lines) :]
            except OSError as why:
                if not failed:
                    sys.stderr.write(self._entry(f"cannot write to the log: {why}") + "\n")
                failed = True
                if closing.wait(_RETRY):
                    return

    def _entry(self, text: str) -> str:
        level = logging.ERROR
        return self.format(
            logging.makeLogRecord(
                {"name": __name__, "levelno": level, "levelname": "ERROR", "msg": text}
            )
        )


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """Block all signals in a thread that starts meanwhile. It would take one of several that are
    pending, and the main thread would see the others first: the ends of workers before the SIGTERM
    that was sent to all.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget() -> None:
    for each in list(_writers):
        each.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
