"""The body of a response as a thread reads it, for as long as it arrives quickly (`ports.Source`).

Theory of operation. A large body flows through one thread, which reads, decodes, hashes and writes
it piece by piece. As soon as nothing arrives for a moment, the thread returns and the event loop
reads: it waits for VB365, and it alone decides what the end of the connection means.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy.core.http.bodies import Body, Counted, UntilClose
from proxy.core.http.heads import MalformedMessage
from proxy.net.thread_reads import ThreadReader

#: Bytes and seconds after which the thread returns in any case: for the progress of the job, a
#: cancellation and the followers of the file.
_BYTES, _SECONDS = 4 << 20, 0.1
#: Seconds that the thread waits for the next bytes.
_PATIENCE = 0.005


class BodySource:
    """Reads the body `body`, of which a part may have been read. One call at a time.

    The connection is not to be used otherwise until `close`. Then `received` is the number of bytes
    read, `rest` are those after the end of the body, and `failure` is what ended the connection or
    made the body malformed.
    """

    def __init__(self, reader: ThreadReader, body: Body) -> None:
        self._reader = reader
        self._body = body
        self._ended = False
        #: Bytes of the body that were read and not appended.
        self.held = b""
        self.received = 0
        self.rest = b""
        self.failure: OSError | MalformedMessage | None = None

    def pour(self, append: Callable[[bytes | memoryview], None]) -> bool:
        """As `Source.pour`."""
        until, left = time.monotonic() + _SECONDS, _BYTES
        while piece := self.held or self._next():
            try:
                append(piece)
            except BaseException:
                self.held = bytes(piece)
                raise
            self.held = b""
            left -= len(piece)
            if left <= 0 or time.monotonic() >= until:
                return True
        return False

    def close(self) -> None:
        """Release the connection."""
        self._reader.close()

    def _next(self) -> bytes | memoryview:
        """The next bytes of the body, b"" if there are none now."""
        body = self._body
        while not (body.done or self._ended or self.failure is not None):
            view = self._reader.buffer()
            if isinstance(body, Counted):
                view = view[: body.left]
            view = view[: self._read_into(view)]
            if not view:
                break
            self.received += len(view)
            if isinstance(body, Counted):
                body.skip(len(view))
                return view
            if isinstance(body, UntilClose):
                return view
            try:
                payload, self.rest = body.feed(bytes(view))
            except MalformedMessage as why:
                self.failure = why
                break
            if payload:
                return payload
        return b""

    def _read_into(self, view: memoryview) -> int:
        """Fill the view with what has arrived; wait a moment if that is nothing."""
        filled, waited = 0, False
        while filled < len(view):
            try:
                count = self._reader.read_into(view[filled:])
            except BlockingIOError:
                if filled or waited or not self._reader.wait(_PATIENCE):
                    break
                waited = True
                continue
            except OSError as why:
                self.failure = why
                break
            if not count:
                self._ended = True
                break
            filled += count
        return filled
