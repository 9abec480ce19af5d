"""Files that the kernel copies to a client's socket: sendfile(2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable


class Turn(NamedTuple):
    """`size` bytes were sent. `full`: the socket takes no more for now."""

    size: int
    full: bool


#: The kernel cannot copy this file to this socket.
IMPOSSIBLE = Turn(0, full=False)


@runtime_checkable
class FileSink(Protocol):
    """An optional capability of the transport of a response: bytes go to the client without it."""

    def begin_sending(self) -> int | None:
        """A descriptor of the client's socket, which does not block, or None if it cannot be used.
        Until `end_sending` nothing may be written.
        """

    def end_sending(self, socket: int, size: int) -> None:
        """Close the descriptor, to which `size` bytes were written."""

    def break_off_sending(self, socket: int) -> None:
        """Break the connection while its descriptor is still in use: nothing that is written to it
        from now on reaches the client.
        """


@runtime_checkable
class FileSource(Protocol):
    """An optional capability of a `Reader`: the kernel can copy the file to a socket."""

    async def send(
        self, sink: FileSink, start: int, stop: int, sent: Callable[[int], None], *, fast: bool
    ) -> Turn:
        """Send the first of the bytes [start, stop), for a short time at most. `fast`: the client
        reads so fast that it pays to wait for it.

        `sent` is called with the size of the turn, also if the call is cancelled, which does not
        interrupt the turn. After `IMPOSSIBLE`, `Reader.chunks` finds out why. Raises
        `StoreUnavailable`.
        """
