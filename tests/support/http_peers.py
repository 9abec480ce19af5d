"""A server in a thread that responds as VB365 does to a client without credentials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import trustme

from tests.support.tls_peers import server_side

_HERE = "127.0.0.1"


class _Peer(BaseHTTPRequestHandler):
    """Responds as VB365 does without credentials, or with `status` to everything."""

    def __init__(self, status: int, ahead: timedelta, *arguments: Any) -> None:
        self.status, self.ahead = status, ahead
        super().__init__(*arguments)

    def do_GET(self) -> None:
        served = self.path in ("/v8/ServiceInstance", "/v7/ServiceInstance")
        self.send_response_only(self.status if served or self.status != 401 else 404)
        self.send_header("Date", format_datetime(datetime.now(UTC) + self.ahead, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def vb365_peer(
    leaf: trustme.LeafCert | None = None, *, status: int = 401, ahead: timedelta = timedelta()
) -> Iterator[str]:
    """A server, with TLS if it has a certificate. Yields its URL."""
    server = ThreadingHTTPServer((_HERE, 0), partial(_Peer, status, ahead))
    if leaf is not None:
        server.socket = server_side(leaf).wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused handshakes
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if leaf else 'http'}://{_HERE}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
