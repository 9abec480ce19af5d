"""A handler that leaves the writing to a thread: a slow disk does not stall the event loop."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading

from proxy.logs.rotated_file import RotatedFile

#: Entries that may wait. More than that are lost, and their number is logged.
_MOST = 10_000
#: Seconds until a line that could not be written is tried again, and until `close` gives up.
_RETRY, _CLOSING = 1.0, 5.0


class Writer(logging.Handler):
    """Formats entries, and writes them to `file` in a thread, in order.

    The thread starts with the first entry: a process that was forked has one of its own.
    """

    def __init__(self, file: RotatedFile) -> None:
        super().__init__()
        self._file = file
        self._lost = 0
        self._pid = 0
        self._thread: threading.Thread | None = None
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_MOST)
        self._closing = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        try:
            self._put(self._line(record))
        except Exception:  # noqa: BLE001  # as every handler of logging does
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, for at most a few seconds, and close the file. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            self._closing.set()
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
            thread.join(_CLOSING)
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(errors="backslashreplace")

    def _put(self, line: bytes) -> None:
        self._start()
        try:
            if self._lost:
                note = f"{self._lost} entries are lost: they could not be written in time"
                self._waiting.put_nowait(self._line(_entry(note)))
                self._lost = 0
            self._waiting.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def _start(self) -> None:
        if self._thread is not None and self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._waiting = queue.Queue(_MOST)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._write(line)
        self._file.close()

    def _write(self, line: bytes) -> None:
        """Write the line, repeatedly until that succeeds or the handler is closed."""
        failed = False
        while True:
            try:
                self._file.write(line)
            except OSError as why:
                if not failed:
                    sys.stderr.write(self._line(_entry(f"cannot write to the log: {why}")).decode())
                failed = True
                if self._closing.wait(_RETRY):
                    return
            else:
                return


def _entry(text: str) -> logging.LogRecord:
    level = logging.ERROR
    return logging.makeLogRecord(
        {"name": __name__, "levelno": level, "levelname": "ERROR", "msg": text}
    )
