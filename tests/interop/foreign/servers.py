"""The proxy in a thread of its own, for clients and servers that block."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager

from tests.support.proxies import proxy_to
from tests.support.threads import in_thread
from tests.transparency.test_transparency import LISTENER


def proxy_in_front_of(port: int) -> AbstractContextManager[int]:
    """Run the listener and the relay to that loopback port; the proxy's own port."""
    return in_thread(_proxy(port))


@contextlib.asynccontextmanager
async def _proxy(port: int) -> AsyncIterator[int]:
    async with proxy_to(port, decide=LISTENER.decide) as proxy:
        yield proxy.port


class Raw:
    """A server on blocking sockets that reads one head per connection and writes what it is told,
    in pieces.
    """

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @classmethod
    @contextlib.contextmanager
    def running(cls, pieces: list[bytes]) -> Iterator[Raw]:
        """Serve until the end of the block."""
        server = cls(pieces)
        server._thread.start()
        try:
            yield server
        finally:
            server._listener.shutdown(socket.SHUT_RDWR)
            server._listener.close()
            server._thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._answer(self._listener.accept()[0])

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            heard = b""
            while b"\r\n\r\n" not in heard:
                data = connection.recv(1 << 16)
                if not data:
                    return
                heard += data
            for piece in self._pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass


Call = Callable[[str], object]
