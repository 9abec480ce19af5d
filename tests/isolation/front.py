"""A careless reverse proxy in front of the simulator: it responds with 200 to what it does not
serve.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import AsyncIterator
from urllib.parse import unquote

from proxy.simulator import Simulator
from tests.support.upstreams import Scripted
from tests.support.wire import Message, ask, raw

HOST = "vb365.internal"
_PER_HOP = {"host", "connection", "transfer-encoding", "content-length"}


class Front:
    """Relays requests whose Host is `HOST`, with the path decoded and dot segments resolved; its
    default site responds with 200.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def __call__(self, request: Message) -> bytes:
        if request["Host"] != HOST:
            return raw("200 OK", ["Content-Type: text/html"], b"<h1>It works!</h1>")
        path, mark, query = request.target.partition("?")
        if "%2f" in path.lower():
            path = posixpath.normpath(unquote(path))
        fields = [(name, value) for name, value in request.fields if name.lower() not in _PER_HOP]
        response = await ask(
            self.simulator.url, request.method, path + mark + query, fields, request.body or None
        )
        fields = [(name, value) for name, value in response.fields if name.lower() not in _PER_HOP]
        return raw(
            response.first.partition(" ")[2],
            [f"{name}: {value}" for name, value in fields],
            response.body,
        )


@contextlib.asynccontextmanager
async def fronted(simulator: Simulator) -> AsyncIterator[Scripted]:
    """The front, listening at `url`."""
    async with Scripted(Front(simulator)).running() as front:
        yield front
