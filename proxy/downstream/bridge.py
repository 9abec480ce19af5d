"""The bridge to aiohttp: a transport that carries one request of the proxy's own at a time.

Theory of operation. aiohttp parses a plain substitute for the head, because its parser is neither
as strict nor as lenient as the proxy's; the handler gets the real head as an argument. A bridge is
in one `Phase`, and serves one request after another until it is CLOSED:

    IDLE ── a request ──> HANDLING ── first bytes of a response ──> RESPONDING
    RESPONDING ── the kernel copies a file ──> SENDING ── end of its turn ──> RESPONDING
    HANDLING, RESPONDING ── response written ──> RESPONDED ── request complete ──> IDLE
    every phase ── the client leaves, or aiohttp closes ──> CLOSED

A response may be written before the request's body has arrived, hence RESPONDED. While SENDING,
bytes go to the client's socket without its transport, which has none to write.
"""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.core.http.heads import Framing, Head
from proxy.core.routing import BadSwitch, Decision, Own
from proxy.downstream.duplex import ClientSide
from proxy.downstream.endings import Ending
from proxy.net.sockets import duplicated, shut

#: Methods that aiohttp's parser and the handlers know. Any other becomes TRACE, which gets 405.
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
#: Idle seconds after which aiohttp's protocol is dropped; the next own request makes a new one.
_IDLE = 60.0

ServerOptions = dict[str, Any]
#: Returns the status and all bytes of the response to a request without a body, on a connection
#: that is kept; None if to respond takes longer. The last argument is `Bridge.get_extra_info`.
AtOnce = Callable[[Head, Decision, Callable[[str, Any], Any]], tuple[int, bytes] | None]
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


class Phase(enum.Enum):
    """How far a bridge is with its request. The values are for logs and debuggers."""

    IDLE = "idle"
    HANDLING = "handling"
    RESPONDING = "responding"
    SENDING = "sending"
    RESPONDED = "responded"
    CLOSED = "closed"


class Bridge(asyncio.Transport):
    """The transport of an aiohttp request handler, on one client connection."""

    def __init__(
        self,
        client: ClientSide,
        make: Callable[[], web.RequestHandler],
        at_once: AtOnce | None = None,
    ) -> None:
        super().__init__()
        self._client = client
        self._at_once = at_once
        self._protocol = make()
        self._head: Head | None = None
        self._decision: Decision | None = None
        self._phase = Phase.IDLE
        #: True once the request is complete.
        self._whole = False
        #: Whether the request's body comes in chunks, and whether the handler reads it.
        self._chunked = self._read = False
        #: Whether the response says that the client's connection is kept.
        self._keep = False
        #: True while the handler waits for a client that reads slowly.
        self._slow = False
        self._protocol.connection_made(self)

    def __repr__(self) -> str:
        """Request line without the query, and phase, for logs and debuggers."""
        words = [self._phase.value]
        if self._head is not None:
            path = self._head.target.partition(b"?")[0]
            words = [self._head.method.decode("latin-1"), path.decode("latin-1"), *words]
        if self._slow:
            words.append("slow")
        return f"<Bridge {' '.join(words)}>"

    # Called by the client connection; see `duplex.Exchange`.

    @property
    def closed(self) -> bool:
        """Whether it serves no further request."""
        return self._phase is Phase.CLOSED

    @property
    def begun(self) -> bool:
        """Whether bytes of the response are written."""
        return self._phase in (Phase.RESPONDING, Phase.SENDING, Phase.RESPONDED)

    def begin(self, head: Head, decision: Decision, *, whole: bool, alone: bool) -> None:
        """Respond at once, or start the handler. `whole`: no body follows. `alone`: the client has
        sent nothing after the head.
        """
        if alone and whole and self._responds_at_once(head, decision):
            return
        self._head, self._decision = head, decision
        self._whole = whole
        self._chunked = head.framing is Framing.CHUNKED
        # aiohttp would keep up to 256 KiB while the handler waits, for VB365 or a store
        self._read = not isinstance(decision, Own | BadSwitch)
        self._phase = Phase.HANDLING
        if head.expect_continue and alone and not whole:
            self._client.interim(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._protocol.data_received(_substitute(head, body=self._read))

    def _responds_at_once(self, head: Head, decision: Decision) -> bool:
        """Respond without aiohttp, and return whether that was possible."""
        client = self._client
        if self._at_once is None or client.closing or not head.keep_alive or not head.minor:
            return False
        found = self._at_once(head, decision, self.get_extra_info)
        if found is None:
            return False
        client.code, response = found
        client.write(response)
        self.client_ready()  # the write may have found a slow one, which the next handler awaits
        client.answered(keep=True)
        return True

    def feed(self, data: bytes) -> None:
        """Hand on bytes of the request's body, without its chunks, or drop them if the handler
        does not read it. aiohttp takes a microsecond for each chunk, and one read may contain
        40,000.
        """
        if self._read and not self.closed:
            if self._chunked:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            self._protocol.data_received(data)

    def end(self) -> None:
        """Note that the request is complete."""
        if self._chunked and self._read and not self.closed:
            self._protocol.data_received(b"0\r\n\r\n")
        self._whole = True
        if self._phase is Phase.RESPONDED:
            self._done()

    def client_left(self) -> None:
        """Cancel the handler of a client that has left."""
        if not self.closed:
            self._phase = Phase.CLOSED
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
        if self.closed:
            return
        self._phase = Phase.RESPONDED
        self._keep = keep
        if self._whole:
            self._done()
        else:
            self._client.handled()

    def _done(self) -> None:
        self.client_ready()
        self._head = self._decision = None
        self._phase = Phase.IDLE
        self._client.answered(keep=self._keep)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Called by aiohttp."""
        if self._phase in (Phase.IDLE, Phase.CLOSED):
            return
        if self._phase is Phase.SENDING:
            raise RuntimeError("write() while a file is sent")
        if self._phase is Phase.HANDLING:
            self._phase = Phase.RESPONDING
            data = _in_own_version(data)
            self._client.code = int(bytes(data[9:12]))  # of "HTTP/1.1 200 OK"
            self._client.responding()
            self._client.note_job(data)
        self._client.write(data)

    def begin_sending(self) -> int | None:
        """As `FileSink.begin_sending`."""
        transport = self._client.transport
        if self._phase is not Phase.RESPONDING or transport.get_write_buffer_size():
            return None
        socket = duplicated(transport)
        if socket is not None:
            self._phase = Phase.SENDING
        return socket

    def end_sending(self, socket: int, size: int) -> None:
        """As `FileSink.end_sending`."""
        os.close(socket)
        self._client.sent += size
        if self._phase is Phase.SENDING:
            self._phase = Phase.RESPONDING

    def break_off_sending(self, socket: int) -> None:
        """As `FileSink.break_off_sending`."""
        shut(socket)

    def is_closing(self) -> bool:
        """Called by aiohttp."""
        return self.closed

    def close(self) -> None:
        """Called by aiohttp when it serves no further request: after a response, or without one."""
        phase, self._phase = self._phase, Phase.CLOSED
        if phase is Phase.CLOSED:
            return
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
        if phase is Phase.RESPONDED:
            self._client.answered(keep=False)
        elif phase is not Phase.IDLE:
            self._client.break_off(Ending.ABORTED)

    def abort(self) -> None:
        """Called by aiohttp."""
        self.close()

    def pause_reading(self) -> None:
        """Called by aiohttp."""
        self._client.hold()

    def resume_reading(self) -> None:
        """Called by aiohttp."""
        self._client.unhold()

    def get_write_buffer_size(self) -> int:
        """The number of bytes written that are not sent yet."""
        return self._client.transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the information of the client's transport; `scheme` is `http` or `https`."""
        if name == "scheme":
            return self._client.scheme.decode()
        introduced = self._client.introduced.get(name)
        return introduced or self._client.transport.get_extra_info(name, default)


def _in_own_version(
    data: bytes | bytearray | memoryview[Any],
) -> bytes | bytearray | memoryview[Any]:
    """The beginning of a response as a client of HTTP/1.0 gets it, as in those of VB365: with the
    proxy's version, and with the end of the connection said (RFC 9112 §2.3, §9.6). aiohttp writes
    the version of the request.
    """
    if data[5:8] == b"1.1":
        return data
    line, _, rest = bytes(data[8:]).partition(b"\r\n")
    said = b"\r\nConnection: " in b"\r\n" + rest.partition(b"\r\n\r\n")[0]
    return b"HTTP/1.1%b\r\n%b%b" % (line, b"" if said else b"Connection: close\r\n", rest)


def _substitute(head: Head, *, body: bool) -> bytes:
    """Build a head that aiohttp parses to what the proxy has parsed from the real one, without the
    body unless there is one to read.
    """
    method = head.method if head.method in _METHODS else b"TRACE"
    framing = {
        Framing.CHUNKED: b"Transfer-Encoding: chunked\r\n",
        Framing.LENGTH: b"Content-Length: %d\r\n" % head.length,
    }
    # not the target, which nothing reads there: yarl would remember it, with its query
    return b"%b / HTTP/1.%d\r\nHost: proxy\r\nConnection: %b\r\n%b\r\n" % (
        method,
        head.minor,
        b"keep-alive" if head.keep_alive else b"close",
        framing.get(head.framing, b"") if body else b"",
    )
