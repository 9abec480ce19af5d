"""An upstream for many exports: `python -m benchmarks.silent_upstream PORT [CERTIFICATE KEY]`.

A request for `…/exportToPst` gets 1 KiB at once, a request for `…/save` gets no response. Any
other request gets a small JSON document.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import cast

import uvloop

_FILE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\n\r\n"
    + b"!BDN" * 256
)
_DOCUMENT = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"results":[]}'
)


class _Upstream(asyncio.Protocol):
    """Responds to requests. They must have no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1]
            if not target.endswith(b"/save"):
                self._transport.write(_FILE if target.endswith(b"/exportToPst") else _DOCUMENT)


async def _serve(port: int, certificate: list[str]) -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Upstream, "127.0.0.1", port, ssl=context, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2:]))
