"""Bounded connections to Redis or Valkey, each command bounded in time.

This uses the connections of redis-py and not its client and pools: those repeat commands, look for
pending data before each, and fail only after several attempts. Here a command is sent once (again
only if it may be repeated and the connection was an old one), and fails after `BOUND` seconds at
most.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from proxy.ports import StoreUnavailable
from proxy.stores.availability import Availability
from proxy.stores.redis_jobs.scripts import Script
from proxy.stores.redis_jobs.url import Location

#: Seconds that a command may take, connecting included: a caller gets a 503 within 2 s (CONTRACT
#: §18).
BOUND = 1.5
#: Connections for commands that are not urgent.
_MOST = 16
#: Seconds between two questions to Sentinel.
_LOOK = 1.0
#: Seconds without an attempt after a failed one: the first, and the longest.
_PAUSE, _LONGEST_PAUSE = 0.05, 0.5


class Connections:
    """Connections to the store at `location`. Every failure is `StoreUnavailable`."""

    def __init__(
        self, location: Location, tls: ssl.SSLContext | None, *, channel: str, bound: float = BOUND
    ) -> None:
        self._location = location
        self._tls = tls
        self._keys = (2, location.prefix, channel)
        #: Seconds that a command may take.
        self.bound = bound
        self._idle: list[AbstractConnection] = []
        self._free = asyncio.Semaphore(_MOST)
        self._busy = 0
        self._settled = asyncio.Event()
        self._settled.set()
        self._closed = False
        self._pause = 0.0
        self._retry_at = 0.0
        self._failure = ""
        self._availability = Availability("jobs")
        #: The master that Sentinel has named last.
        self._named: tuple[str, int] | None = None
        #: The latest epoch of a Sentinel's configuration.
        self._epoch = 0

    async def watch_service(self) -> None:
        """Ask the Sentinels regularly which server is the master, until cancelled.

        A former one that was paused, restarted or not reachable takes changes for about ten seconds
        until Sentinel makes it a replica. They are lost then.
        """
        while self._location.service is not None:
            await asyncio.sleep(_LOOK)
            with suppress(RedisError, OSError, MemoryError):
                await self._master(every=True)

    def is_current(self, connection: AbstractConnection) -> bool:
        """Whether the connection is to the server that has the jobs now."""
        if self._named is None or not isinstance(connection, Connection):
            return True
        return (connection.host, connection.port) == self._named

    async def run(self, script: Script, *args: Any, urgent: float | None = None) -> Any:
        """Run a script and return its reply; see `command`."""
        tail = (*self._keys, *args)
        repeatable = script.repeatable
        try:
            return await self._execute(("EVALSHA", script.sha, *tail), repeatable, urgent)
        except NoScriptError:  # nothing was executed
            return await self.command(
                "EVAL", script.text, *tail, repeatable=repeatable, urgent=urgent
            )

    async def command(
        self, *command: Any, repeatable: bool = True, urgent: float | None = None
    ) -> Any:
        """Execute a command and return its reply. One that is not `repeatable` is sent once. One
        with `urgent` may take so many seconds, and does not wait for others, which anybody's
        requests may cause.
        """
        try:
            return await self._execute(command, repeatable, urgent)
        except NoScriptError as why:
            raise self._refused(why) from why

    async def _execute(
        self, command: tuple[Any, ...], repeatable: bool, urgent: float | None
    ) -> Any:
        if self._closed:
            raise StoreUnavailable("the job store is closed")
        self._busy += 1
        self._settled.clear()
        bound = self.bound if urgent is None else urgent
        fault = f"has {_MOST} commands to execute before"
        try:
            async with asyncio.timeout(bound), self._free if urgent is None else nullcontext():
                fault = f"did not respond within {bound:g} s"
                reply = await self._send(command, repeatable)
            self._availability.worked()
            return reply
        except TimeoutError:
            if urgent is not None:
                # the repetition must not try one broken connection after the other
                await self._drop_idle()
        except NoScriptError:
            raise
        except ResponseError as why:
            raise self._refused(why) from why
        except (RedisError, OSError) as why:
            raise self._unavailable(f"cannot be reached: {why}") from why
        except MemoryError as why:
            raise self._unavailable("cannot be used: there is no memory") from why
        finally:
            self._busy -= 1
            if not self._busy:
                self._settled.set()
        # not from the TimeoutError: by way of its `asyncio.Timeout` it refers to the task, which
        # may have the body of a kick-off
        raise self._unavailable(fault)

    async def _send(self, command: tuple[Any, ...], repeatable: bool) -> Any:
        while self._idle:
            connection = self._idle.pop()
            try:
                # with something to read, the server has closed it
                if not self.is_current(connection) or await connection.can_read():
                    raise ConnectionError("the connection was closed")
            except (RedisError, OSError):
                await connection.disconnect(nowait=True)
                continue
            try:
                return await self._exchange(connection, command)
            except ResponseError:
                raise
            except (RedisError, OSError):
                # the other old ones may be broken as well
                await self._drop_idle()
                if not repeatable:
                    raise
        return await self._exchange(await self._connected(), command)

    async def _exchange(self, connection: AbstractConnection, command: tuple[Any, ...]) -> Any:
        try:
            await connection.send_command(*command)
            reply = await connection.read_response()
        except ResponseError as why:
            if isinstance(why, ReadOnlyError) or "READONLY" in str(why):
                # the server has become a replica: its master is to be looked up again
                await connection.disconnect(nowait=True)
                await self._drop_idle()
            else:
                self._keep(connection)
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._keep(connection)
        return reply

    def _keep(self, connection: AbstractConnection) -> None:
        self._idle.append(connection)

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def _connected(self) -> AbstractConnection:
        loop = asyncio.get_running_loop()
        if loop.time() < self._retry_at:
            raise ConnectionError(self._failure)
        try:
            connection = await self.connect()
        except (RedisError, OSError) as why:
            # the commands of the next moment fail at once, instead of each trying to connect
            self._failure = str(why)
            self._pause = min(max(self._pause * 2, _PAUSE), _LONGEST_PAUSE)
            self._retry_at = loop.time() + self._pause
            raise
        self._pause = self._retry_at = 0.0
        return connection

    async def connect(self) -> AbstractConnection:
        """A new connection, which the caller closes. Raises errors of redis-py and OSError."""
        location = self._location
        if location.path is not None:
            return await _opened(UnixDomainSocketConnection, path=location.path, **self._login())
        if location.service is None:
            return await self._to(*location.hosts[0])
        connection = await self._to(*await self._master())
        try:
            await connection.send_command("ROLE")
            role = (await connection.read_response())[0]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        if role != b"master":
            await connection.disconnect(nowait=True)
            raise ConnectionError(f"Sentinel names a server whose role is {role.decode()}")
        return connection

    async def _to(self, host: str, port: int) -> AbstractConnection:
        return await _opened(self._kind(), host=host, port=port, **self._login())

    def _login(self) -> dict[str, Any]:
        location = self._location
        return {"db": location.db, "username": location.user, "password": location.password}

    def _kind(self) -> Callable[..., AbstractConnection]:
        return Connection if self._tls is None else self._tls_connection

    def _tls_connection(self, **options: Any) -> AbstractConnection:
        connection = SSLConnection(**options)
        connection.ssl_context.context = self._tls  # read once, in a thread
        return connection

    async def _master(self, *, every: bool = False) -> tuple[str, int]:
        """The address of the service's master, from the first Sentinel that knows it, or from the
        one of `every` Sentinel whose configuration is the latest.

        One that was paused, or is cut off from the others, names the former master. It does not
        count while another knows a later configuration.
        """
        problems = []
        latest: tuple[int, tuple[str, int]] | None = None
        share = self.bound / (len(self._location.hosts) + 1)
        for host, port in self._location.hosts:
            try:
                async with asyncio.timeout(share):
                    found = await self._ask(host, port)
            except (RedisError, OSError) as why:
                problems.append(f"{host}:{port}: {str(why) or 'no response'}")
                continue
            if latest is None or found[0] > latest[0]:
                latest = found
            if found[0] >= self._epoch and not every:
                break
        if latest is None:
            raise ConnectionError(f"no Sentinel names the master ({'; '.join(problems)})")
        self._epoch = max(self._epoch, latest[0])
        self._named = latest[1]
        return self._named

    async def _ask(self, host: str, port: int) -> tuple[int, tuple[str, int]]:
        """The epoch of a Sentinel's configuration, and the master's address."""
        connection = await _opened(self._kind(), host=host, port=port)
        try:
            service = self._location.service
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
            found = await connection.read_response()
            if not found:
                raise ConnectionError(f"it knows no service {service!r}")
            await connection.send_command("SENTINEL", "MASTER", service)
            facts = []
            with suppress(ResponseError):  # an ACL may forbid it
                facts = await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
        epoch = dict(zip(facts[::2], facts[1::2], strict=True)).get(b"config-epoch", b"0")
        return int(epoch), (found[0].decode(), int(found[1]))

    def _refused(self, why: Exception) -> StoreUnavailable:
        # servers append the script and its line, which say nothing to an operator
        reason = str(why).partition(" script: ")[0].rstrip(".,")
        return self._unavailable(f"refused a command: {reason}")

    def _unavailable(self, fault: str) -> StoreUnavailable:
        failure = StoreUnavailable(f"the job store at {self._location} {fault}")
        self._availability.failed(failure)
        return failure

    async def close(self) -> None:
        """Refuse further commands, let the running ones end, and close all connections."""
        self._closed = True
        await self._settled.wait()
        await self._drop_idle()


async def _opened(kind: Callable[..., AbstractConnection], **options: Any) -> AbstractConnection:
    """A connection that is connected, with the time limits of the caller only."""
    connection = kind(
        **options, protocol=2, socket_timeout=None, socket_connect_timeout=None, driver_info=None
    )
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        with suppress(RedisError, OSError):
            await connection.disconnect(nowait=True)
        raise
    return connection


def tls_context(location: Location) -> ssl.SSLContext | None:
    """The context for a server with TLS, or None. Reads files. Raises `StoreUnavailable`."""
    if not location.tls:
        return None
    files = location.files
    reading = files.get("ca_file")
    try:
        context = ssl.create_default_context(cafile=reading)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "cert_file" in files:
            reading = files["cert_file"]
            context.load_cert_chain(reading, files["key_file"])
    except (OSError, ValueError) as why:
        raise StoreUnavailable(
            f"storage.jobs: {reading} cannot be used for TLS ({why}): "
            "check ca_file, cert_file and key_file"
        ) from why
    return context
