"""What a worker process inherits from its supervisor (CONTRACT §15 `--workers`)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.net.board import Board
from proxy.net.budget import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """The Unix sockets over which the workers hand requests to the one that owns the jobs, by the
    scheme of the client's connection.
    """

    paths: Mapping[bytes, Path]
    sockets: Mapping[bytes, socket.socket]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The place of one worker process among `count`. The first one (`index` 0) has the admin
    listener and, if the jobs are on its disk, owns them.

    `sockets` listen for clients. `handover` is None if every worker has access to the jobs. The
    workers write what they have counted on `board`, and on `heads`, `bodies`, `strange_bodies` and
    `strange_rescues` how much memory their clients use. The supervisor reads lines from `ready`,
    and its end closes `alive`.
    """

    index: int
    count: int
    sockets: Sequence[socket.socket]
    handover: Handover | None
    board: Board
    heads: Tally
    bodies: Tally
    strange_bodies: Tally
    strange_rescues: Tally
    ready: int
    alive: int

    @property
    def first(self) -> bool:
        """Whether this is the first worker."""
        return self.index == 0

    def share(self, total: int) -> int:
        """The worker's share of a limit; 0, no limit, stays 0."""
        return -(-total // self.count)

    def report(self, url: str, admin_url: str, found: Mapping[str, int]) -> None:
        """Tell the supervisor that this worker listens, and what its start has found."""
        words = [url, admin_url, *(f"{name}={number}" for name, number in found.items())]
        os.write(self.ready, f"{' '.join(words)}\n".encode())
        if not self.first:
            os.close(self.ready)

    def show(self, status: str) -> None:
        """Tell the supervisor the status of the first worker, after `report`."""
        with contextlib.suppress(OSError):
            os.write(self.ready, f"{status}\n".encode())
