"""Who may ask the admin listener: host names and the token (CONTRACT §16)."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Collection

_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
#: Wrong tokens from one address within `_WINDOW` seconds, after which none of its tokens is looked
#: at.
_GUESSES = 10
_WINDOW = 60.0
#: Addresses whose wrong tokens are counted; the one that guessed longest ago is forgotten first.
_ADDRESSES = 1_000


def is_served(host: str | None, names: Collection[str]) -> bool:
    """True if the Host field names an IP address, localhost or one of `names`, whatever its port.

    A page whose own name resolves to this listener's address (DNS rebinding) sends that name.
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


class TokenGuard:
    """Compares bearer tokens with `token` in constant time, and counts the wrong ones. `now` a
    monotonic clock.
    """

    def __init__(self, token: str, now: Callable[[], float]) -> None:
        self._token = _digest(token)
        self._now = now
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Seconds for which no token of the address is looked at; 0 without such a ban."""
        times = self._wrong.get(_block(address), deque())
        while times and times[0] <= self._now() - _WINDOW:
            times.popleft()
        return math.ceil(times[0] + _WINDOW - self._now()) if len(times) >= _GUESSES else 0

    def accepts(self, authorization: str, address: str) -> bool:
        """True if the Authorization field of a request from the address holds the token."""
        scheme, _, sent = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(sent.strip()), self._token):
            return True
        block = _block(address)
        self._wrong.setdefault(block, deque(maxlen=_GUESSES)).append(self._now())
        self._wrong.move_to_end(block)
        if len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
        return False


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _block(address: str) -> str:
    """The address; of IPv6 its /64, since one host has as many addresses there as it likes."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return address
