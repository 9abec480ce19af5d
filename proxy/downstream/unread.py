"""What clients have not read of their responses: all of them share one limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.downstream.endings import Ending

#: Bytes that a client may leave unread before nothing more is written. The loops' default with TLS
#: is 512 KiB.
HIGH = 1 << 16
#: Bytes that all clients may leave unread; beyond it, those that have read nothing for `PATIENCE`
#: seconds make room. More than a thousand slow downloads do not reach it.
LIMIT = 256 << 20
PATIENCE = 30.0


class SlowClient(Protocol):
    """A client connection, as `Unread` uses it."""

    @property
    def unsent(self) -> int:
        """The number of bytes written that are not sent yet."""

    def break_off(self, why: Ending) -> None:
        """Abort, so that the client cannot take its response for whole."""


class Unread:
    """The clients that read more slowly than the proxy writes.

    They need no credentials: the description of the API is for everyone, and each connection may
    leave some 100 KiB unread for minutes. So one that has not moved for longest is broken off when
    they leave more than the limit together. `now` returns seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        #: When each one became slow, and what it left unread then, the first one first.
        self._clients: dict[SlowClient, tuple[float, int]] = {}
        self._size = 0
        self._check: asyncio.TimerHandle | None = None

    def add(self, client: SlowClient) -> None:
        """Note that nothing more is written until the client has read."""
        self.discard(client)
        now, size = self._now(), client.unsent
        self._clients[client] = now, size
        self._size += size
        if self._check is None:
            self._make_room()

    def _make_room(self) -> None:
        self._check = None
        while self._size > LIMIT and len(self._clients) > 1:
            oldest = next(iter(self._clients))
            left = self._clients[oldest][0] + PATIENCE - self._now()
            if left > 0:
                self._check = asyncio.get_running_loop().call_later(left, self._make_room)
                return
            self.discard(oldest)
            oldest.break_off(Ending.TIMED_OUT)

    def discard(self, client: SlowClient) -> None:
        """Note that the client has read, or has left. Idempotent."""
        _, size = self._clients.pop(client, (0.0, 0))
        self._size -= size
