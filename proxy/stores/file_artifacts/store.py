"""Artifacts as files in a directory of this machine, or of a volume that several share (CONTRACT
§15).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from threading import Event
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from proxy.net.budget import Budget
from proxy.ports import Artifact, Readable, StoreUnavailable, Tail
from proxy.ports.sending import Turn
from proxy.stores.durable import close
from proxy.stores.file_artifacts import files as files
from proxy.stores.file_artifacts.files import COUNTED, Entry, Places, checked
from proxy.stores.file_artifacts.gauge import Gauge
from proxy.stores.file_artifacts.interface import READING, GrowingFile
from proxy.stores.file_artifacts.ledger import Ledger
from proxy.stores.file_artifacts.partial import FilePartial
from proxy.stores.file_artifacts.reader import LARGE_PIECES, FileReader
from proxy.stores.file_artifacts.spool import Spool
from proxy.stores.file_artifacts.takeover import remove_copied, take_over
from proxy.stores.file_artifacts.volume import Volume
from proxy.stores.threads import (
    FileTurns,
    Patience,
    Threads,
    begin,
    undisturbed,
    yield_to_loop,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")
#: Threads for writers, readers, and kept files that are hashed again. Each waits for the disk most
#: of its time.
_THREADS = 16
#: Seconds that a request waits for a file to be opened, and for files to be removed: the disk may
#: need some for a large one.
_OPENING, _REMOVAL = 10.0, 30.0
#: Files that may hang, of those that are read, and of those that are removed, before no more are
#: read or removed; and threads that read one file.
_HANGING, _READERS = 6, 2
#: Threads that send files; how many of them send one file; and how many may wait for fast clients
#: at a time. Slow clients are waited for in the event loop.
_SENDERS, _SENDERS_OF_FILE, _PATIENT = 8, 4, 6


class FileArtifacts:
    """An `ArtifactStore` in `directory`/artifacts; see `files` for its layout."""

    def __init__(self, root: Path, *, durable: bool, clock: Callable[[], float]) -> None:
        self.now = clock
        self.ledger = Ledger()
        self.large_pieces = Budget(LARGE_PIECES)
        self._root = root
        self._durable = durable
        self.turns, self.patient_turns = asyncio.Semaphore(_SENDERS), Budget(_PATIENT)
        self.turns_of_files = FileTurns(_SENDERS_OF_FILE)
        self._threads = Threads(_THREADS, "artifacts")
        self._senders = Threads(_SENDERS, "sending")
        self._receivers = Threads(_THREADS, "receivers", initializer=yield_to_loop)
        self.reading = Patience(str(root), _HANGING, _READERS)
        self._removing = Patience(str(root), _HANGING, 1)
        self.volume = Volume(root)
        self._free = Gauge(self._measure, str(root))
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._growing: set[GrowingFile] = set()
        #: The list of all files that is being read.
        self._survey: asyncio.Future[dict[Entry, int]] | None = None
        self._directories: dict[str, Path] = {}  # at most 256, by the first characters of the ids
        self._closed = False

    @classmethod
    async def at(
        cls,
        directory: Path,
        *,
        durable: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> FileArtifacts:
        """Open the artifacts in `directory`, which is created if it does not exist.

        With `durable=False` syncing is left to the system: a power loss may then undo a commit, a
        crash of the process cannot. `clock` returns Unix seconds. Raises `StoreUnavailable`.
        """
        store = cls(directory / "artifacts", durable=durable, clock=clock)
        try:
            await undisturbed(store.begin(files.make_root, store._root))
        except BaseException:
            store._end_threads()
            raise
        return store

    async def identity(self) -> str | None:
        """As `Identified.identity`."""
        return await self._ask(self.volume.find)

    async def identify(self, id: str) -> str:
        """As `Identified.identify`."""
        return await self._ask(self.volume.identify, id)

    async def create(self, id: str, fence: int = 0) -> FilePartial:
        """As `ArtifactStore.create`."""
        places = self._places(id, fence)

        def create() -> tuple[Spool, list[int]]:
            self.volume.check()
            removed = files.remove_all(places.directory, id, below=fence)
            return Spool.create(places, durable=self._durable), removed

        made, removed = await self.exclusively(
            id, create, unwanted=lambda made: self._dispose(made[0])
        )
        self._drop_all(id, removed)
        self.ledger.drop(places.entry("partial"))
        return FilePartial(self, places, made)

    async def resume(self, id: str, fence: int = 0) -> FilePartial | None:
        """As `ArtifactStore.resume`. Raises `StoreUnavailable` while another writer with the same
        fence has the file open.
        """
        places, stop = self._places(id, fence), Event()
        lower: list[int] = []

        def resume() -> Spool | None:
            lower.extend(remove_copied(places))
            kept = Spool.resume(places, durable=self._durable, stop=stop)
            if kept is None and fence:
                kept, found = take_over(places, durable=self._durable, stop=stop)
                lower.extend(found)
            return self._checked(kept)

        kept = await self.exclusively(id, resume, stop=stop.set, unwanted=self._dispose)
        if kept is None:
            return None
        self._drop_all(id, lower)
        self.ledger.drop(places.entry("partial"))
        return FilePartial(self, places, kept)

    async def get(self, id: str, fence: int = 0) -> Artifact | None:
        """As `ArtifactStore.get`. A file that does not match its sidecar is no artifact."""
        found = await self._look(id, files.committed, self._places(id, fence))
        return None if found is None else found[0]

    async def missing(self, wanted: Collection[tuple[str, int]]) -> set[str]:
        """As `Searchable.missing`."""

        def missing(wanted: Collection[tuple[str, int]]) -> set[str]:
            found = {
                job for job, fence in wanted if files.committed(self._places(job, fence)) is None
            }
            if found:
                self.volume.check()
            return found

        return await self._ask(missing, wanted)

    async def record_copy(self, id: str, fence: int | None = 0) -> bytes | None:
        """As `ArtifactStore.record_copy`."""
        if fence is None:
            found = await self._look(id, files.highest_committed, self._places(id).directory, id)
        else:
            found = await self._look(id, files.committed, self._places(id, fence))
        return None if found is None else found[1]

    async def open(self, id: str, fence: int = 0) -> FileReader | None:
        """As `ArtifactStore.open`."""
        return await self._open(id, files.opened, self._places(id, fence))

    async def _open(
        self,
        id: str,
        work: Callable[_P, tuple[Artifact, int] | None],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> FileReader | None:
        opening = partial(self.begin, partial(self._found, work, *args, **kwargs))
        found = await self.reading.call(id, opening, _OPENING, unwanted=self._dispose)
        return None if found is None else FileReader(self, *found)

    def tail(self, id: str, fence: int = 0) -> Tail | None:
        """As `Followable.tail`."""
        places = self._places(id, fence)
        return next((each.tail() for each in self._growing if each.places == places), None)

    async def open_published(self, id: str, fence: int, size: int) -> Readable | None:
        """As `Published.open_published`."""
        return await self._open(id, files.opened_published, self._places(id, fence), size)

    async def remove(self, id: str) -> None:
        """As `ArtifactStore.remove`."""
        await self._removing.call(id, lambda: asyncio.ensure_future(self._remove(id)), _REMOVAL)

    async def _remove(self, id: str) -> None:
        removing = partial(self._found, files.remove_all, self._places(id).directory, id)
        self._drop_all(id, [0, *await self.exclusively(id, removing)])

    async def ids(self) -> set[str]:
        """As `ArtifactStore.ids`. Reads the disk, and so finds the changes of others on a shared
        volume. A call that is cancelled leaves its survey to the next one.
        """
        if self._survey is None:
            self._survey = self._begin_survey()
        survey = self._survey
        await asyncio.wait([survey])
        return {entry.id for entry in survey.result()}

    def _begin_survey(self) -> asyncio.Future[dict[Entry, int]]:
        changes = self.ledger.changes

        def over(survey: asyncio.Future[dict[Entry, int]]) -> None:
            self._survey = None
            if survey.exception() is None:
                self._recount(survey.result(), changes)

        survey = self.begin(partial(self._found, files.survey, self._root))
        survey.add_done_callback(over)
        return survey

    def _recount(self, found: dict[Entry, int], changes: int) -> None:
        growing = {each.places.entry("partial") for each in self._growing}
        at_rest = {
            entry: size
            for entry, size in found.items()
            if entry.kind in COUNTED and entry not in growing
        }
        self.ledger.recount(at_rest, changes)

    async def free(self) -> int:
        """As `ArtifactStore.free`."""
        self._check_open()
        return await self._free()

    async def used(self) -> int:
        """As `ArtifactStore.used`."""
        self._check_open()
        if not self.ledger.counted:
            await self.ids()
        return self.ledger.total

    async def close(self) -> None:
        """As `ArtifactStore.close`. Files that are being written are kept. Idempotent."""
        if self._closed:
            return
        failures = await asyncio.gather(
            *(each.keep() for each in self._growing), return_exceptions=True
        )
        self._closed = True
        self._end_threads()
        for failure in failures:
            if failure is not None:
                raise failure

    def _end_threads(self) -> None:
        for threads in (self._threads, self._senders, self._receivers):
            threads.shutdown(wait=False)
        self._free.close()

    # What partial files and readers need of their store

    def begin(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """Run blocking work in a thread."""
        self._check_open()
        return begin(self._threads, partial(work, *args, **kwargs))

    def begin_turn(
        self, descriptor: int, socket: int, start: int, stop: int, *, patient: bool
    ) -> asyncio.Future[Turn]:
        """Run `files.send` in a thread."""
        self._check_open()
        send = partial(files.send, descriptor, socket, start, stop, patient=patient)
        return begin(self._senders, send)

    def receive(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """As `begin`, for work that also reads from the network."""
        self._check_open()
        return begin(self._receivers, partial(work, *args, **kwargs))

    async def exclusively(
        self,
        id: str,
        work: Callable[[], _T],
        *,
        stop: Callable[[], None] | None = None,
        unwanted: Callable[[_T], asyncio.Future[None]] | None = None,
    ) -> _T:
        """Run `work`, which changes the names of the job's files, in a thread. Calls for one job
        run one at a time. `stop` and `unwanted` are as in `threads.undisturbed`.
        """
        async with self._turns.setdefault(id, asyncio.Lock()):
            return await undisturbed(self.begin(work), stop=stop, unwanted=unwanted)

    def close_file(self, descriptor: int) -> asyncio.Future[None]:
        """Close a file in a thread: if the file was removed, closing it frees its blocks, which may
        take long.
        """
        return self._begin_closing(close, descriptor)

    def begun(self, growing: GrowingFile) -> None:
        """Note that the file is being written."""
        self._growing.add(growing)
        self.ledger.put(growing, growing.offset)

    def ended(self, growing: GrowingFile, entry: Entry | None) -> None:
        """Note that the file is no longer written, and the entry under which it is kept, if any."""
        self._growing.discard(growing)
        self.ledger.drop(growing)
        if entry is not None:
            self.ledger.put(entry, growing.offset)

    def _drop_all(self, id: str, fences: list[int]) -> None:
        entries = (Entry(id, fence, kind) for fence in fences for kind in COUNTED)
        self.ledger.drop(*entries)

    def _places(self, id: str, fence: int = 0) -> Places:
        prefix = checked(id)[:2]
        directory = self._directories.get(prefix)
        if directory is None:
            directory = self._directories[prefix] = self._root / prefix
        return Places(directory, id, fence)

    def _measure(self) -> int:
        self.volume.check()
        return files.free(self._root)

    def _found(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What the work finds. Nothing found on another volume is not nothing. It blocks."""
        return self._checked(work(*args, **kwargs))

    def _checked(self, found: _T) -> _T:
        if not found:
            self.volume.check()
        return found

    async def _look(
        self, id: str, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        looking = partial(self.begin, partial(self._found, work, *args, **kwargs))
        return await self.reading.call(id, looking, READING)

    async def _ask(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await undisturbed(self.begin(work, *args, **kwargs))

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the artifact store is closed")

    def _dispose(self, made: Spool | tuple[Artifact, int] | None) -> asyncio.Future[None]:
        return self._begin_closing(_close, made)

    def _begin_closing(self, close: Callable[[_T], None], file: _T) -> asyncio.Future[None]:
        """Close it in a thread, also after the store: the last call may have hung until then."""
        try:
            return begin(None if self._closed else self._threads, partial(close, file))
        except MemoryError:
            close(file)  # here rather than never
            raise


def _close(made: Spool | tuple[Artifact, int] | None) -> None:
    if isinstance(made, Spool):
        made.close()
    elif made is not None:
        close(made[1])
