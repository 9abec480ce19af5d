"""An open artifact. What the page cache holds is read on the event loop, the rest in a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from proxy.ports import Artifact, StoreUnavailable
from proxy.ports.sending import IMPOSSIBLE, FileSink, Turn
from proxy.stores.file_artifacts import files
from proxy.stores.file_artifacts.interface import CLOSING, READING, Store
from proxy.stores.threads import ended

_T = TypeVar("_T")
#: Bytes of a piece. A piece is in memory until the client has received it. Therefore only a few
#: readers at a time get large ones, and only if their last piece was sent at `_FAST` bytes/s.
_SMALL, _LARGE = 16 << 10, 256 << 10
_FAST = 32 << 20
#: Readers that may have a large piece at a time.
LARGE_PIECES = 32


class FileReader:
    """A `Reader` over an open file."""

    def __init__(self, store: Store, artifact: Artifact, descriptor: int) -> None:
        self.artifact = artifact
        self._store = store
        self._descriptor = descriptor
        self._turns = store.turns_of_files.of(artifact.id)
        self._working: set[asyncio.Future[Any]] = set()
        self._closing: asyncio.Future[None] | None = None

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes | bytearray, None]:
        """As `Reader.chunks`. The generator keeps no reference to a piece that it has yielded."""
        loop = asyncio.get_running_loop()
        grants = self._store.large_pieces
        fast = False
        at = start
        while at < stop:
            large = fast and grants.take(1)
            try:
                pieces = [await self._read(at, min(_LARGE if large else _SMALL, stop - at))]
                size = len(pieces[0])
                before = loop.time()
                yield pieces.pop()
                fast = size > (loop.time() - before) * _FAST
                at += size
            finally:
                if large:
                    grants.give(1)

    async def _read(self, start: int, count: int) -> bytes | bytearray:
        """At least one byte and at most `count`."""
        self._check_open()
        if cached := files.read_cached(self._descriptor, start, count):
            await asyncio.sleep(0)  # a fast client must not block the loop
            return cached

        def begin() -> asyncio.Future[bytes]:
            self._check_open()
            return self._works(self._store.begin(files.read_at, self._descriptor, start, count))

        return await self._store.reading.call(self.artifact.id, begin, READING)

    async def send(
        self, sink: FileSink, start: int, stop: int, sent: Callable[[int], None], *, fast: bool
    ) -> Turn:
        """As `FileSource.send`."""
        if not await self._has_turn():
            return IMPOSSIBLE
        socket = None
        try:
            self._check_open()
            socket = sink.begin_sending()
        finally:
            if socket is None:
                self._end_turn()
        if socket is None:
            return IMPOSSIBLE
        return await self._send(sink, socket, start, stop, sent, patient=fast)

    async def _has_turn(self) -> bool:
        """Wait for a turn. False if those of others hang."""
        try:
            # the turns of this file first: whoever waits for them takes no turn of others
            async with asyncio.timeout(READING), contextlib.AsyncExitStack() as stack:
                for turns in (self._turns, self._store.turns):
                    await turns.acquire()
                    stack.callback(turns.release)
                stack.pop_all()
        except TimeoutError:
            return False
        return True

    def _end_turn(self) -> None:
        self._store.turns.release()
        self._turns.release()

    async def _send(
        self,
        sink: FileSink,
        socket: int,
        start: int,
        stop: int,
        sent: Callable[[int], None],
        *,
        patient: bool,
    ) -> Turn:
        grants = self._store.patient_turns
        patient = patient and grants.take(1)

        def over(size: int) -> None:
            sink.end_sending(socket, size)
            sent(size)
            if patient:
                grants.give(1)
            self._end_turn()

        try:
            turn = self._store.begin_turn(self._descriptor, socket, start, stop, patient=patient)
        except BaseException:
            over(0)
            raise
        turn.add_done_callback(lambda turn: over(0 if turn.exception() else turn.result().size))
        try:
            return await self._store.reading.wait(self.artifact.id, self._works(turn), READING)
        finally:
            if not turn.done():
                sink.break_off_sending(socket)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreUnavailable(f"the reader of artifact {self.artifact.id} is closed")

    def _works(self, work: asyncio.Future[_T]) -> asyncio.Future[_T]:
        """Note that a thread uses the descriptor."""
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        return work

    async def close(self) -> None:
        """As `Reader.close`. The descriptor is closed later if a thread hangs that uses it."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await ended(self._closing, CLOSING)

    async def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        while self._working:
            await asyncio.wait(self._working)
        await self._store.close_file(descriptor)
