"""A relay of bytes to a server, at a Unix socket or a TCP port, which a test can cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class ByteRelay:
    """Listens at the Unix socket `path` and relays to the one at `target`.

    - `responses`: cleared, what the server sends is discarded.
    - `requests`: cleared, what clients send is discarded too: the network is silent.
    - `refusing`: new connections are closed at once.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self._target = target
        self.requests = asyncio.Event()
        self.responses = asyncio.Event()
        self.requests.set()
        self.responses.set()
        self.refusing = False
        self._tasks: set[asyncio.Task[None]] = set()
        #: How many connections were accepted.
        self.accepted = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        onward: asyncio.StreamWriter | None = None
        with suppress(OSError, asyncio.CancelledError):
            back, onward = await self._connect()
            copies = [
                asyncio.create_task(self._copy(reader, onward, self.requests)),
                asyncio.create_task(self._copy(back, writer, self.responses)),
            ]
            try:
                await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for copy in copies:
                    copy.cancel()
                await asyncio.wait(copies)
        for each in (writer, onward):
            if each is not None:
                each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self._target)

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if open_.is_set():
                    writer.write(data)
                    await writer.drain()

    async def cut(self) -> None:
        """Break all connections. New ones are accepted."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def fail(self, seconds: float, *, silent: bool) -> None:
        """Break all connections for a while. `silent`: nobody is told before its end."""
        if silent:
            self.requests.clear()
            self.responses.clear()
        else:
            self.refusing = True
            await self.cut()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.refusing = False
            self.requests.set()
            self.responses.set()
        await self.cut()  # what was discarded is missing in these streams


class PortRelay(ByteRelay):
    """Listens at a TCP port, `port`, and relays to `target` on 127.0.0.1."""

    def __init__(self, target: int) -> None:
        super().__init__(Path(), Path())
        self._target_port = target
        self.port = 0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._target_port)


@asynccontextmanager
async def byte_relay(path: Path, target: Path) -> AsyncIterator[ByteRelay]:
    """A relay while the block runs."""
    relay = ByteRelay(path, target)
    server = await asyncio.start_unix_server(relay.accept, path)
    try:
        yield relay
    finally:
        server.close()
        await relay.cut()


@asynccontextmanager
async def port_relay(target: int) -> AsyncIterator[PortRelay]:
    """A relay to a TCP port while the block runs."""
    relay = PortRelay(target)
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.cut()
