"""What partial files and readers need of the store that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import ParamSpec, Protocol, TypeVar

from proxy.net.budget import Budget
from proxy.ports import Tail
from proxy.ports.sending import Turn
from proxy.stores.file_artifacts.files import Entry, Places
from proxy.stores.file_artifacts.ledger import Ledger
from proxy.stores.file_artifacts.volume import Volume
from proxy.stores.threads import FileTurns, Patience

#: Seconds that the body of a response may wait for its file: a file server may need them to hand
#: over to another. And those that its end waits for the file to be closed.
READING, CLOSING = 60.0, 5.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class GrowingFile(Hashable, Protocol):
    """A partial file that is being written."""

    id: str
    places: Places

    @property
    def offset(self) -> int:
        """Bytes accepted so far."""

    async def keep(self) -> None:
        """Stop writing and keep the accepted bytes."""

    def tail(self) -> Tail:
        """A follower of the file."""


class Store(Protocol):
    """The store, as its files see it."""

    ledger: Ledger
    #: Large pieces that all readers of the store may have at a time.
    large_pieces: Budget
    #: The volume that the files are on.
    volume: Volume
    #: Bounds how long readers wait for a file.
    reading: Patience
    #: Limits the turns that all readers, and those of one file, have at a time, and how many of
    #: them may wait for their client; see `files.send`.
    turns: asyncio.Semaphore
    turns_of_files: FileTurns
    patient_turns: Budget

    @property
    def now(self) -> Callable[[], float]:
        """The wall clock."""

    def begin(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """Run blocking work in a thread."""

    def begin_turn(
        self, descriptor: int, socket: int, start: int, stop: int, *, patient: bool
    ) -> asyncio.Future[Turn]:
        """Run `files.send` in a thread."""

    def receive(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """As `begin`, for work that also reads from the network."""

    async def exclusively(self, id: str, work: Callable[[], _T]) -> _T:
        """Run `work`, which changes the names of the job's files, in a thread. Calls for one job
        run one at a time.
        """

    def close_file(self, descriptor: int) -> asyncio.Future[None]:
        """Close a file in a thread."""

    def begun(self, growing: GrowingFile, /) -> None:
        """Note that the file is being written."""

    def ended(self, growing: GrowingFile, entry: Entry | None, /) -> None:
        """Note that the file is no longer written, and the entry under which it is kept, if any."""
