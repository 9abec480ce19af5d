"""Watches whether VB365 accepts connections. No request is sent, so that its log shows nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from proxy.ports import LocalShortage, UpstreamFailure

log = structlog.get_logger(__name__)

#: Seconds between two connections; the first one is opened after as many.
INTERVAL = 10.0


class Closable(Protocol):
    """A connection that can be closed."""

    def close(self) -> None:
        """Close at once."""


class UpstreamWatch:
    """Opens and closes a connection from time to time, with a TLS handshake if there is TLS, and
    logs each change once.

    `connect` raises `UpstreamFailure`; `seconds` never jumps.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Closable]],
        *,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._seconds = seconds
        self._since = seconds()
        #: Whether the last connection succeeded; True before the first one.
        self.up = True
        #: Whether there was one.
        self.tried = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Open and close one connection."""
        try:
            (await self._connect()).close()
        except LocalShortage:
            return  # says nothing about VB365
        except UpstreamFailure as why:
            self.tried = True
            if self.up:
                log.error("upstream.down", cause=str(why), seconds_up=self._change())  # noqa: TRY400
        else:
            self.tried = True
            if not self.up:
                log.info("upstream.up", seconds_down=self._change())

    def _change(self) -> float:
        """Note the change. Return the seconds since the last one, or since the start."""
        now = self._seconds()
        lasted, self._since, self.up = now - self._since, now, not self.up
        return round(lasted, 3)
