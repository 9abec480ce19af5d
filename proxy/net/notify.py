"""Notifies the service manager: sd_notify(3), a datagram to the socket in NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from proxy.core.text import visible

READY, STOPPING = "READY=1", "STOPPING=1"


def notify(*states: str, status: str) -> None:
    """Send `states`, and `status`, the line that `systemctl status` shows.

    Does nothing without a service manager, or if the datagram cannot be sent.
    """
    name = os.environ.get("NOTIFY_SOCKET", "")
    if sys.platform == "win32" or not name.startswith(("/", "@")):
        return
    address = "\0" + name[1:] if name.startswith("@") else name  # "@": Linux's abstract namespace
    message = "\n".join([*states, f"STATUS={visible(status)}"])
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # this is the event loop's thread
        sender.sendto(message.encode(errors="backslashreplace"), address)
