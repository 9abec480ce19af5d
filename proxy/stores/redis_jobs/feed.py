"""The feed of changed jobs: one subscription for all that wait in this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakSet

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from proxy.ports import Changes
from proxy.stores.redis_jobs.connections import BOUND, Connections
from proxy.stores.redis_jobs.recent import RecentJobs

#: What ends a subscription, which is then made again.
_FAILURES = (RedisError, OSError, MemoryError)
#: Seconds of silence before the connection is checked with a PING, and before it counts as lost.
_QUIET = 2.0
#: Seconds before the first attempt to reconnect, and the longest between two.
_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class Feed:
    """Reads the feed while `run` runs, and tells readers and waiters."""

    def __init__(self, connections: Connections, channel: str, recent: RecentJobs) -> None:
        self._connections = connections
        self._recent = recent
        self._channel = channel
        self._readers: WeakSet[Changes] = WeakSet()
        self._waiters: defaultdict[str, dict[asyncio.Future[None], int]] = defaultdict(dict)
        self._closed = False
        #: Set while the subscription is in force.
        self.connected = asyncio.Event()

    def changes(self) -> Changes:
        """A reader of all changes from now on."""
        reader = Changes()
        if self._closed:
            reader.close()
        self._readers.add(reader)
        return reader

    @contextmanager
    def watch(self, id: str, version: int) -> Iterator[asyncio.Future[None]]:
        """A future that is done when the job may have another version, and cancelled when the feed
        is closed.
        """
        changed = asyncio.get_running_loop().create_future()
        if self._closed:
            changed.cancel()
        self._waiters[id][changed] = version
        try:
            yield changed
        finally:
            self._waiters[id].pop(changed)
            if not self._waiters[id]:
                del self._waiters[id]

    def watched(self) -> list[str]:
        """The ids of the jobs that are waited for."""
        return list(self._waiters)

    def compare(self, versions: Mapping[str, int | None]) -> None:
        """Wake those that wait for another version than the stored one."""
        for job, version in versions.items():
            for changed, known in self._waiters.get(job, {}).items():
                if known != version and not changed.done():
                    changed.set_result(None)

    def tell(self, id: str) -> None:
        """Report a change of the job."""
        self._recent.drop(id)
        for changed in self._waiters.get(id, ()):
            if not changed.done():
                changed.set_result(None)
        for reader in self._readers:
            reader.put(id)

    def gap(self) -> None:
        """Report that any job may have changed."""
        self._recent.clear()
        self.compare(dict.fromkeys(self._waiters))
        for reader in self._readers:
            reader.put(None)

    def close(self) -> None:
        """End all iterations and waits."""
        self._closed = True
        for waiters in self._waiters.values():
            for changed in waiters:
                changed.cancel()
        for reader in self._readers:
            reader.close()

    async def run(self) -> None:
        """Subscribe and read, and subscribe again after a failure, until cancelled."""
        pause = _PAUSE
        while True:
            try:
                async with asyncio.timeout(BOUND):
                    connection = await self._subscribe()
            except _FAILURES:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _PAUSE
            try:
                self.connected.set()
                self.gap()
                await self._read(connection)
            except _FAILURES:
                self.connected.clear()
                self._recent.clear()
            finally:
                await connection.disconnect(nowait=True)

    async def _subscribe(self) -> AbstractConnection:
        connection = await self._connections.connect()
        try:
            await connection.send_command("SUBSCRIBE", self._channel)
            await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _read(self, connection: AbstractConnection) -> None:
        silent = False
        while True:
            message = await connection.read_response(timeout=_QUIET)
            if not self._connections.is_current(connection):
                raise ConnectionError("Sentinel names another master")
            if message is None:
                if silent:
                    raise ConnectionError("the feed is silent")
                silent = True
                await connection.send_command("PING")
                continue
            silent = False
            if message[0] == b"message":
                self.tell(message[2].decode())
