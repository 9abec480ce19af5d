"""The log on a stream, such as stderr."""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from proxy.logs.direct import DirectEvent, LineHandler

#: Bytes of one write, and seconds to wait until the reader of a pipe has read some.
_BATCH, _PAUSE = 256 << 10, 1.0


class Stream:
    """A sink for `Writer`. What cannot be written because nobody can read it is lost."""

    batch = _BATCH

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, lines: bytes) -> int:
        """Write, and return how many bytes. Blocks while the reader of a pipe does not read."""
        try:
            return self._write(lines)
        except BlockingIOError:
            select.select([], [self._stream], [], _PAUSE)
            return 0
        except (OSError, ValueError):
            return len(lines)

    def close(self) -> None:
        """Leave the stream open."""

    if sys.platform == "win32":

        def _write(self, lines: bytes) -> int:
            """Write through the stream, which knows the encoding of the console."""
            self._stream.write(lines.decode())
            self._stream.flush()
            return len(lines)

    else:

        def _write(self, lines: bytes) -> int:
            """Write past the stream, whose lock another thread must not have to wait for."""
            return os.write(self._stream.fileno(), lines)


def say(line: str) -> None:
    """Write a line to stderr that is no entry of the log.

    It is one write: `print` makes two of it, and a line that the log's thread writes in between
    would become a part of it.
    """
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def has_descriptor(stream: TextIO) -> bool:
    """Whether the stream is one of the operating system."""
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):
        return False


class StreamHandler(LineHandler, logging.StreamHandler[TextIO]):
    """Writes to a stream at once."""

    def put(self, event: DirectEvent, values: Sequence[object]) -> None:
        """Write the line."""
        self.acquire()
        try:
            self.stream.write(event.lines(self.direct, [(event, values, time.time_ns())]))
            self.flush()
        finally:
            self.release()
