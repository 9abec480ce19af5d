"""Connections to receivers, whose responses are bounded whatever they send."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial

import aiohttp
from aiohttp.client_proto import ResponseHandler

#: Bytes of a response that are read, interim responses, head and body together: aiohttp reads any
#: number of interim responses, and an endless series of them would block the loop.
MOST = 64 << 10


class _Bounded(ResponseHandler):
    """Reads the first bytes of a response, then aborts the connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._left = MOST

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        taken = data[: self._left]
        self._left -= len(taken)
        if taken or not data:
            super().data_received(taken)
        if len(taken) < len(data) and self.transport is not None:
            self.transport.abort()


def _bounded(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _Bounded(loop)


class BoundedConnector(aiohttp.TCPConnector):
    """Opens a connection for each request, with TLS as `tls` says if the URL has it."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            ssl=tls or True,
            # a connection that the endpoint has closed meanwhile would cost a try
            force_close=True,
            resolver=aiohttp.ThreadedResolver(),  # the system's, as for all other names
        )
        self._factory = partial(_bounded, loop=asyncio.get_running_loop())
