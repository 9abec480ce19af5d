"""The bridge to aiohttp: a transport that carries one request of the proxy's own at a time.

aiohttp parses a plain substitute for the head, because its parser is neither as strict nor as
lenient as the proxy's. The handler gets the real head as an argument.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.core.http.heads import Framing, Head
from proxy.core.routing import Decision
from proxy.downstream.duplex import ClientSide

#: Methods that aiohttp's parser and the handlers know. Any other becomes TRACE, which gets 405.
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_ODD = re.compile(rb'[^!-~]|["#<>\\^`{|}]')
#: Idle seconds after which aiohttp's protocol is dropped; the next own request makes a new one.
_IDLE = 60.0

ServerOptions = dict[str, Any]
#: For `web.Server`: no decompression, no access log, no limits on a head that the proxy has
#: checked, and handlers are cancelled when their client leaves.
OPTIONS: ServerOptions = {
    "access_log": None,
    "auto_decompress": False,
    "handler_cancellation": True,
    "keepalive_timeout": _IDLE,
    "max_line_size": 1 << 18,
    "max_field_size": 1 << 18,
    "tcp_keepalive": False,
}


class Bridge(asyncio.Transport):
    """The transport of an aiohttp request handler, on one client connection."""

    def __init__(self, client: ClientSide, make: Callable[[], web.RequestHandler]) -> None:
        super().__init__()
        self._client = client
        self._protocol = make()
        self._head: Head | None = None
        self._decision: Decision | None = None
        self._whole = False
        self._answered = False
        self._keep = False
        self._slow = False
        self.closed = False
        #: True once bytes of a response are written.
        self.begun = False
        self._protocol.connection_made(self)

    # Called by the client connection; see `duplex.Exchange`.

    def begin(self, head: Head, decision: Decision, *, whole: bool, invite: bool) -> None:
        """Start the handler. `whole`: no body follows. `invite`: the client waits for a 100."""
        self._head, self._decision = head, decision
        self._whole = whole
        self._answered = self.begun = False
        if invite and not whole:
            self._client.interim(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._protocol.data_received(_substitute(head))

    def feed(self, data: bytes) -> None:
        """Hand on bytes of the request's body, still chunked if it is chunked."""
        if not self.closed:
            self._protocol.data_received(data)

    def end(self) -> None:
        """Note that the request is complete."""
        self._whole = True
        if self._answered:
            self._done()

    def client_left(self) -> None:
        """Cancel the handler of a client that has left."""
        if not self.closed:
            self.closed = True
            self._protocol.connection_lost(ConnectionResetError("the client has left"))

    def client_slow(self) -> None:
        """Make the handler wait for a client that reads slowly."""
        self._slow = True
        self._protocol.pause_writing()

    def client_ready(self) -> None:
        """Let the handler continue."""
        if self._slow:
            self._slow = False
            self._protocol.resume_writing()

    # Called by the server and by aiohttp.

    @property
    def request(self) -> tuple[Head, Decision]:
        """The head of the request in progress as the client sent it, and the decision on it.

        Raises `ConnectionResetError` when there is none any more.
        """
        if self._head is None or self._decision is None:
            raise ConnectionResetError("the client has left")
        return self._head, self._decision

    @property
    def closing(self) -> bool:
        """Whether the connection ends with this response."""
        return self._client.closing

    def answered(self, *, keep: bool) -> None:
        """Note that the handler has written its response."""
        self._answered = True
        self._keep = keep
        if self._whole:
            self._done()

    def _done(self) -> None:
        self.client_ready()
        self._head = self._decision = None
        self._client.answered(keep=self._keep and not self.closed)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Called by aiohttp."""
        if not self.closed and self._head is not None:
            self.begun = True
            self._client.transport.write(data)

    def is_closing(self) -> bool:
        """Called by aiohttp."""
        return self.closed

    def close(self) -> None:
        """Called by aiohttp when it serves no further request: after a response, or without one."""
        if self.closed:
            return
        self.closed = True
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
        if self._head is None:
            return
        if self._answered:
            self._client.answered(keep=False)
        else:
            self._client.break_off()

    def abort(self) -> None:
        """Called by aiohttp."""
        self.close()

    def pause_reading(self) -> None:
        """Called by aiohttp."""
        self._client.hold()

    def resume_reading(self) -> None:
        """Called by aiohttp."""
        self._client.unhold()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the handler is told to wait, until its answer ends: see `asyncio.WriteTransport`."""
        if not self.closed and not self._client.transport.is_closing():
            self._client.transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """The number of bytes written that are not sent yet."""
        return self._client.transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the information of the client's transport; `scheme` is `http` or `https`."""
        if name == "scheme":
            return self._client.scheme.decode()
        introduced = self._client.introduced.get(name)
        return introduced or self._client.transport.get_extra_info(name, default)


def _substitute(head: Head) -> bytes:
    """Build a head that aiohttp parses to what the proxy has parsed from the real one."""
    method = head.method if head.method in _METHODS else b"TRACE"
    target = head.target if head.target.startswith(b"/") else b"/"
    target = b"/" + _ODD.sub(lambda odd: b"%%%02X" % ord(odd[0]), target).lstrip(b"/")
    framing = {
        Framing.CHUNKED: b"Transfer-Encoding: chunked\r\n",
        Framing.LENGTH: b"Content-Length: %d\r\n" % head.length,
    }
    return b"%b %b HTTP/1.%d\r\nHost: proxy\r\nConnection: %b\r\n%b\r\n" % (
        method,
        target,
        head.minor,
        b"keep-alive" if head.keep_alive else b"close",
        framing.get(head.framing, b""),
    )
