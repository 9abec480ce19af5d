"""An upstream of a thousand exports: `python -m benchmarks.silent PORT [CERTIFICATE KEY]`.

`…/exportToPst` answers 1 KiB at once, `…/save` never; everything else is a small JSON document.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import cast

import uvloop

_FILE = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\n\r\n" + b"!BDN" * 256
_OTHER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"results":[]}'[:-1]


class _Upstream(asyncio.Protocol):
    """Requests without a body, or with an empty one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1]
            if not target.endswith(b"/save"):
                self._transport.write(_FILE if target.endswith(b"/exportToPst") else _OTHER)


async def _serve(port: int, pair: list[str]) -> None:
    context = None
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
    server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", port, ssl=context, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2:]))
