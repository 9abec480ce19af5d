"""The forward proxy of the environment: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as in curl and Go."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from yarl import URL

from proxy.client.errors import CommandError


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward proxy, without its credentials in `url`; None for a direct connection.

    `fields` are for the proxy: of the CONNECT, or without TLS of each request.
    """

    url: URL | None = None
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)


def forward_proxy(url: URL) -> Forward:
    """Return the proxy for `url`. Loopback addresses are always connected to directly, as in Go.

    Raises `CommandError` for a proxy that is not one of HTTP. No message has its credentials.
    """
    host = url.host or ""
    found = getproxies_environment().get(url.scheme)
    if not found or is_loopback(host) or proxy_bypass(f"{host}:{url.port}"):
        return Forward()
    variable = f"{url.scheme.upper()}_PROXY"
    try:
        proxy = URL(found if "://" in found else f"http://{found}")
    except ValueError:
        proxy = URL()
    user = proxy.user or ""
    if proxy.scheme not in ("http", "https") or not proxy.host or ":" in user:
        raise CommandError(
            f"{variable} must be the URL of an HTTP proxy, such as http://proxy.example.com:3128. "
            "For a direct connection, put the server's name into NO_PROXY",
            code=2,
        )
    if not user:
        return Forward(proxy)
    credentials = aiohttp.encode_basic_auth(user, proxy.password or "")
    return Forward(proxy.with_user(None), {"Proxy-Authorization": credentials})


def is_loopback(host: str) -> bool:
    """Return whether the name or address is of this computer."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
