"""The phases of a client connection and its time limits; see `downstream.connection`."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """The state of a connection."""

    READY = "no request is in progress"
    SERVING = "a request is in progress"
    TUNNEL = "every byte belongs to the exchange"
    LINGERING = "the last response is written; further input is dropped"


class Limit(enum.IntEnum):
    """What a connection waits for, each with a deadline of its own."""

    HEAD = 0  # the rest of a head
    BODY = 1  # the next byte of a request's body
    READER = 2  # the client to read what is written
    IDLE = 3  # the first byte of the next request
    LOOK = 4  # the next check whether a client that is not read from has left
    LINGER = 5  # the client to close after the last response
