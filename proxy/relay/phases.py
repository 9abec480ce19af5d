"""How far an exchange of the relay is, and what it waits for; see `relay.exchange`."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """How far an exchange is. The values are for logs and debuggers."""

    DIALLING = "dialling"
    WAITING = "waiting for VB365"
    RESPONDING = "responding"
    TUNNEL = "tunnel"
    ENDED = "ended"


class Hold(enum.Flag):
    """Why the client's request body is not read."""

    DIALLING = enum.auto()  # there is no connection yet
    RESPONSE = enum.auto()  # VB365's response is read first: see `Exchange.feed`
    SLOW = enum.auto()  # VB365 reads slowly
