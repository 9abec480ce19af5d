"""Listening sockets: made before there is an event loop, or by it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BACKLOG = 1024
#: Bytes of the longest path of a Unix socket that every system takes (macOS: 104 with its end).
_LONGEST_PATH = 103


def listen(found: Iterable[tuple[Any, ...]], *, reuse_port: bool = False) -> list[socket.socket]:
    """Listen on every address that `getaddrinfo` has found. `reuse_port`: other sockets may listen
    on the same ones, and the system distributes connections among them. Raises OSError.
    """
    made: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            made.append(_listening(family, address, reuse_port=reuse_port))
    except OSError:
        for sock in made:
            sock.close()
        raise
    return made


def _listening(family: int, address: tuple[Any, ...], *, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as why:
        sock.close()
        raise OSError(
            why.errno, f"cannot listen on {address[0]} port {address[1]}: {why.strerror}"
        ) from why
    return sock


def listen_at(path: Path) -> socket.socket:
    """Listen on a Unix socket at `path`, in a directory that only this user can enter. Raises
    OSError.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OSError(0, f"the path of a socket is too long: {path}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(os.fspath(path))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
