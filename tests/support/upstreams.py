"""Upstreams whose every byte a test writes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from tests.support.wire import LIMIT, Message, Peer


class Upstream(ABC):
    """A server on loopback. What goes wrong in `serve` fails the test when the server stops."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self.errors: list[BaseException] = []
        self._peers: dict[asyncio.Task[None], Peer] = {}
        #: Of all connections: one that is closed may still wait for a client that does not read.
        self._transports: list[asyncio.WriteTransport] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """The number of connections that are being served."""
        return len(self._peers)

    @abstractmethod
    async def serve(self, peer: Peer) -> None:
        """Serve one connection, which is closed afterwards."""

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        peer = Peer(reader, writer)
        self._transports.append(writer.transport)
        task = asyncio.create_task(self._serve(peer))
        self._peers[task] = peer
        task.add_done_callback(self._peers.pop)

    async def _serve(self, peer: Peer) -> None:
        try:
            await self.serve(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as why:  # noqa: BLE001  # shown when the upstream stops
            self.errors.append(why)
        finally:
            peer.writer.close()

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls, limit=1 << 21)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            # asyncio: accept no more, and give a connection that is being accepted its transport,
            # which it does not get from a closed server (https://github.com/python/cpython/issues/109564)
            for sock in server.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            for _ in range(2):
                await asyncio.sleep(0)
            server.close()
            for task in self._peers:
                task.cancel()
            for transport in [*self._transports, *self._unserved()]:
                # asyncio: one that had data to send when it was closed, and has sent it, has no
                # loop any more
                with contextlib.suppress(AttributeError):
                    transport.abort()
            await asyncio.gather(*self._peers, return_exceptions=True)
            await asyncio.wait_for(server.wait_closed(), LIMIT)
        if self.errors:
            raise BaseExceptionGroup("the upstream failed", self.errors)

    def _unserved(self) -> list[asyncio.Transport]:
        """The connections whose TLS handshake has not ended. uvloop closes them itself."""
        known = getattr(asyncio.get_running_loop(), "_transports", {})
        here = ("127.0.0.1", self.port)
        return [each for each in list(known.values()) if each.get_extra_info("sockname") == here]


Script = Callable[[Peer], Awaitable[None]]


class Origin(Upstream):
    """An upstream that runs `script` on each connection."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script

    async def serve(self, peer: Peer) -> None:
        await self.script(peer)


#: Returns the response to a request; None closes the connection without one.
Responder = Callable[[Message], Awaitable[bytes | None]]


class Scripted(Upstream):
    """An upstream that sends what `script` returns. `requests` has what came, oldest first."""

    def __init__(self, script: Responder) -> None:
        super().__init__()
        self.script = script
        self.requests: list[Message] = []

    async def serve(self, peer: Peer) -> None:
        with contextlib.suppress(TimeoutError):  # of a connection without a further request
            while True:
                message = await peer.message()
                self.requests.append(message)
                response = await self.script(message)
                if response is None:
                    break
                await peer.send(response)
                if b"\r\nConnection: close\r\n" in response:
                    peer.writer.write_eof()
                    break

    def posts(self) -> list[Message]:
        return [request for request in self.requests if request.method == "POST"]
