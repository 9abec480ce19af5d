"""An upstream whose responses to export POSTs a test writes piece by piece, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from tests.support.upstreams import Upstream
from tests.support.wire import Message, Peer, raw

#: Writes the response to a POST.
Write = Callable[[Peer, Message], Awaitable[None]]

EXPORT = "/v8/RestoreSessions/s1/organization/mailboxes/m1/exportToPst"
CONTENT = b"!BDN" + bytes(range(256)) * 4000
#: A head with fields whose order, case, spelling and bytes must survive.
LINES = (
    b"date: Thu, 26 Nov 2026 00:00:00 GMT\r\n"
    b"Content-Type:application/octet-stream\r\n"
    b'X-Twice: 1\r\nETag: "abc"\r\nx-twice: \xe4\r\n'
    b"Content-Disposition: attachment; filename=a.pst\r\n"
)
LENGTH = b"Content-Length: %d\r\n" % len(CONTENT)
CHUNKED = b"transfer-encoding: Chunked\r\n"
HEAD = b"HTTP/1.1 200 Fine, thanks\r\n" + LINES + LENGTH + b"\r\n"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\n" + CHUNKED + LINES + b"\r\n"


async def whole(peer: Peer, message: Message) -> None:
    """Respond with all of the file."""
    await peer.send(HEAD + CONTENT)


async def rest(peer: Peer, message: Message) -> None:
    """Respond with the part of the file that the request asks for, to its end."""
    start = int(message["Range"][6:-1])
    shown = b"Content-Range: bytes %d-%d/%d\r\n" % (start, len(CONTENT) - 1, len(CONTENT))
    length = b"Content-Length: %d\r\n" % (len(CONTENT) - start)
    head = b"HTTP/1.1 206 Partial Content\r\n" + LINES + length + shown + b"\r\n"
    await peer.send(head + CONTENT[start:])


async def chunked(peer: Peer, message: Message) -> None:
    """The same, with a chunked body."""
    half = len(CONTENT) // 2
    pieces = (CONTENT[:half], CONTENT[half:])
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    await peer.send(CHUNKED_HEAD + body + b"0\r\n\r\n")


def answer(response: bytes) -> Write:
    """Respond with these bytes."""

    async def write(peer: Peer, message: Message) -> None:
        await peer.send(response)

    return write


async def raw_response(peer: Peer, size: int) -> tuple[bytes, bytes]:
    """The bytes of the head, and so many of the body."""
    head = await peer.head()
    return head, await peer.exactly(size)


class Slow:
    """Sends the head when `head` is set, then the pieces in `pieces` as they are put there; None
    ends the body. `cut` in place of a piece breaks the connection.
    """

    def __init__(self, head: bytes = HEAD) -> None:
        self.requested = asyncio.Event()
        self.head = asyncio.Event()
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._head = head

    async def __call__(self, peer: Peer, message: Message) -> None:
        self.requested.set()
        await self.head.wait()
        await peer.send(self._head)
        while (piece := await self.pieces.get()) is not None:
            await peer.send(piece)

    def finish(self) -> None:
        """Send everything."""
        self.head.set()
        self.pieces.put_nowait(CONTENT)
        self.pieces.put_nowait(None)


class Exports(Upstream):
    """Responds to GETs, which are access checks, with `answer` or `checks`, and to each POST as the
    next of `writes` does; the last one is repeated.
    """

    def __init__(self, *writes: Write) -> None:
        super().__init__()
        self.writes = list(writes) or [whole]
        self.posts: list[Message] = []
        self.gets: list[Message] = []
        self.checks: dict[str, int] = {}
        self.answer: Callable[[Message], Awaitable[bytes | None]] | None = None

    async def serve(self, peer: Peer) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                message = await peer.message()
                if message.method == "POST":
                    self.posts.append(message)
                    write = self.writes.pop(0) if len(self.writes) > 1 else self.writes[0]
                    await write(peer, message)
                    return
                self.gets.append(message)
                if self.answer is not None and (response := await self.answer(message)):
                    await peer.send(response)
                    continue
                status = self.checks.get(message.get("Authorization") or "", 200)
                await peer.send(raw(f"{status} Checked", body=b"{}"))


def post(
    token: str | None = "t",
    *,
    target: str = EXPORT,
    body: bytes = b"{}",
    fields: tuple[str, ...] = (),
    version: str = "1.1",
) -> bytes:
    """The bytes of an export POST."""
    lines = [f"POST {target} HTTP/{version}", "Host: vb365.example.com"]
    lines += [] if token is None else [f"Authorization: Bearer {token}"]
    lines += fields
    if not any("transfer-encoding" in each.lower() for each in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
