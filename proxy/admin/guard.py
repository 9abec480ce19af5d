"""Access control of the admin listener: host names, origins and the token (CONTRACT §16)."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Collection

_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
#: Wrong tokens from one address within `_WINDOW` seconds after which its tokens are ignored.
_MAX_FAILURES = 10
_WINDOW = 60.0
#: Addresses whose wrong tokens are counted. The least recent one is dropped first.
_MAX_ADDRESSES = 1_000


def is_served(host: str | None, names: Collection[str]) -> bool:
    """Report whether the Host field is an IP address, localhost or one of `names`, on any port.

    A DNS rebinding attack sends the name of the attacker's own page.
    """
    match = None if host is None else _AUTHORITY.fullmatch(host.strip())
    if match is None:
        return False
    name = match[1].lower()
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return name == "localhost" or name in {each.lower() for each in names}
    return (address.version == 6) == name.startswith("[")


def is_same_origin(origin: str, host: str, scheme: str, names: Collection[str]) -> bool:
    """Report whether the Origin field is that of the listener itself, by the Host field and the
    scheme of its connection.

    A server that ends TLS in front of the listener sends a name that `names` lists: then https is
    the same origin too.
    """
    found, _, authority = origin.lower().partition("://")
    own = host.strip().lower()
    if _without_port(authority, found) != _without_port(own, found):
        return False
    if found == scheme:
        return True
    match = _AUTHORITY.fullmatch(own)
    listed = match is not None and match[1] in {each.lower() for each in names}
    return found == "https" and listed


def _without_port(authority: str, scheme: str) -> str:
    """Return the authority without the default port of the scheme."""
    return authority.removesuffix({"http": ":80", "https": ":443"}.get(scheme, ":"))


class TokenGuard:
    """Compares bearer tokens with `token` in constant time, and counts wrong ones by address.

    `now` returns seconds.
    """

    def __init__(self, token: str, now: Callable[[], float]) -> None:
        self._token = _digest(token)
        self._now = now
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Return the seconds for which tokens of the address are ignored, 0 if they are not."""
        times = self._wrong.get(_block(address), deque())
        while times and times[0] <= self._now() - _WINDOW:
            times.popleft()
        return math.ceil(times[0] + _WINDOW - self._now()) if len(times) >= _MAX_FAILURES else 0

    def accepts(self, authorization: str, address: str) -> bool:
        """Report whether the Authorization field of a request from the address has the token."""
        scheme, _, sent = authorization.strip().partition(" ")
        return self.accepts_token(sent.strip() if scheme.lower() == "bearer" else "", address)

    def accepts_token(self, sent: str, address: str) -> bool:
        """Report whether a request from the address has sent the token."""
        if hmac.compare_digest(_digest(sent), self._token):
            return True
        block = _block(address)
        self._wrong.setdefault(block, deque(maxlen=_MAX_FAILURES)).append(self._now())
        self._wrong.move_to_end(block)
        if len(self._wrong) > _MAX_ADDRESSES:
            self._wrong.popitem(last=False)
        return False


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _block(address: str) -> str:
    """Return the address, or its /64 for IPv6: one host can use all addresses of a /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return address
