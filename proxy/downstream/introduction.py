"""The first line of a connection that another process of the proxy has made for a client."""

from __future__ import annotations

import asyncio
from typing import cast

from proxy.core.http.proxy_line import parse_proxy_line
from proxy.downstream.connection import ClientConnection
from proxy.net.deadline import Deadlines

#: Seconds until the line must have arrived. The other process sends it at once.
_TIMEOUT = 10.0


class Introduction(asyncio.Protocol):
    """Reads the PROXY protocol line, then hands the connection to `client`, with what the line and
    `scheme` say about the client's own connection.
    """

    def __init__(self, client: ClientConnection, scheme: bytes) -> None:
        self._client = client
        self._scheme = scheme
        self._data = b""
        self._deadline = Deadlines(1, self._expired)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._deadline.set(0, _TIMEOUT)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._data += data
        try:
            found = parse_proxy_line(self._data)
        except ValueError:
            self._transport.abort()
            return
        if found is None:
            return
        self._deadline.cancel()
        client = self._client
        client.introduce(self._scheme, found.client, found.local, found.request_id)
        self._transport.set_protocol(client)
        client.connection_made(self._transport)
        if rest := self._data[found.length :]:
            client.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, only if the line has not arrived."""
        self._deadline.cancel()
        self._client.never_began()

    def _expired(self, which: int) -> None:
        self._transport.abort()
