"""What a client's connection does, and what it may wait for: see `proxy.downstream.connection`."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """What a connection is doing."""

    READY = "no request is in progress"
    SERVING = "an exchange has the request"
    TUNNEL = "every byte is for the exchange"
    LINGERING = "the last answer is written, what still comes is dropped"


class Limit(enum.IntEnum):
    """What a connection may wait for, and who is waited for."""

    HEAD = 0  # the rest of a head that has begun
    BODY = 1  # the next byte of a request's body
    READER = 2  # the client, to take what is written
    IDLE = 3  # the first byte of a request
    LOOK = 4  # the next look whether a client that is not read from has left
    LINGER = 5  # a client that is done sending, to close
