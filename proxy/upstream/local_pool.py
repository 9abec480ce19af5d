"""Connections to another process of this proxy, over a Unix socket."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool


class LocalPool(Pool):
    """Connections to the Unix socket at `path`. Each belongs to one client, which its first line
    names, so that none is used again.
    """

    def __init__(self, path: Path, *, connect_timeout: float) -> None:
        super().__init__("localhost", 0, connect_timeout=connect_timeout)
        self._path = os.fspath(path)

    def put(self, connection: Connection, *, private: bool = False) -> bool:
        """Close the connection."""
        connection.close()
        return False

    async def _dial(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_unix_connection(
            lambda: Connection(self), self._path
        )
        try:
            connection.adopt()
        except ConnectionResetError:
            connection.transport.abort()
            raise
        return connection
