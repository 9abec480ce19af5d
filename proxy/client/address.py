"""The address of a server, as a user writes it."""

from __future__ import annotations

from yarl import URL

from proxy.client.errors import CommandError
from proxy.core.http.authority import can_be_looked_up


def parse_address(text: str) -> URL:
    """Parse an http(s) URL with a host that can be looked up. Raises `CommandError`."""
    try:
        url = URL(text)
        host = url.raw_host if url.host else None  # `host` decodes names, and raises for bad ones
        valid = (
            url.scheme in {"http", "https"} and host and can_be_looked_up(host) and url.port != 0
        )
    except ValueError:
        valid = False
    if not valid:
        raise CommandError(
            f"--url must be a URL such as https://vb365.example.com:4443, not {text!r}", code=2
        )
    return url
