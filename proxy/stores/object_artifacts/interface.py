"""What partial files and readers need of the store that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import ParamSpec, Protocol, TypeVar

from proxy.net.budget import Budget
from proxy.ports import Tail
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.layout import Place, Run

_P = ParamSpec("_P")
_T = TypeVar("_T")


class GrowingFile(Protocol):
    """A partial file that is being written."""

    place: Place

    @property
    def offset(self) -> int:
        """Bytes accepted so far."""

    async def keep(self) -> None:
        """Stop writing and keep the accepted bytes."""

    def tail(self) -> Tail:
        """A follower of the file."""


class Store(Protocol):
    """The store, as its files see it."""

    #: Large pieces that all readers of the store may have at a time.
    large_pieces: Budget

    @property
    def bucket(self) -> Bucket:
        """The bucket. Raises `StoreUnavailable` if the store is closed."""

    @property
    def now(self) -> Callable[[], float]:
        """The wall clock."""

    def begin(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """Run blocking work in a thread."""

    def turn(self, id: str) -> AbstractAsyncContextManager[None]:
        """Change the names of the job's files; one at a time."""

    async def tidy(self, place: Place, runs: tuple[Run, ...], *, head: bool = False) -> bool:
        """Remove the objects of the job under this fence and lower ones, except the artifact with
        these segments, the partial file if `head`, and what is being read. Return whether one is
        committed under a greater fence.
        """

    def ended(self, growing: GrowingFile, /, *, kept: int, committed: bool) -> None:
        """Note that the file is no longer written, and how many of its bytes are kept."""

    def closed(self, id: str, /) -> None:
        """Note that a reader of the job's artifact is closed."""
