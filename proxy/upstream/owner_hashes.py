"""Keyed hashes of callers and their credentials (CONTRACT §2 "Caller", §9)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from proxy.upstream.credentials import Credentials

_Lines = tuple[tuple[bytes, ...], tuple[bytes, ...]]


class OwnerHashes:
    """Computes the hashes, all keyed with `key`. Each is computed once for a `Credentials`."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # a copy of it takes half the time of a new one
        self._empty = hmac.new(key, digestmod=hashlib.sha256)

    def identity(self, claims: str) -> str:
        """Return the hash of a token's claims."""
        return self._keyed("identity", claims)

    def caller(self, credentials: Credentials) -> str:
        """Return the hash of Authorization, or of Cookie if there is no Authorization.

        A load balancer's cookie changes with every response. The spelling of the scheme `Bearer`
        does not matter.
        """
        bearer = credentials.bearer
        if bearer is None:
            return self.as_sent(credentials)
        return self._once(credentials, "caller", lambda: ((b"Bearer " + bearer,), ()))

    def as_sent(self, credentials: Credentials) -> str:
        """Return the same hash over the bytes as they were sent, as in version 0.1.0."""
        first, cookie = credentials.authorization, credentials.cookie
        return self._once(credentials, "as sent", lambda: (first, () if first else cookie))

    def exact(self, credentials: Credentials) -> str:
        """Return the hash of the exact Authorization and Cookie lines."""
        lines = credentials.authorization, credentials.cookie
        return self._once(credentials, "exact", lambda: lines)

    def all(self, credentials: Credentials) -> tuple[str, ...]:
        """Return the three hashes of the credentials, without repetitions."""
        found = (self.caller, self.as_sent, self.exact)
        return tuple(dict.fromkeys(each(credentials) for each in found))

    def _once(self, credentials: Credentials, name: str, lines: Callable[[], _Lines]) -> str:
        found = credentials.hashes.get((self._key, name))
        if found is None:
            found = self._keyed("credentials", repr(lines()))
            credentials.hashes[self._key, name] = found
        return found

    def _keyed(self, kind: str, text: str) -> str:
        keyed = self._empty.copy()
        keyed.update(f"{kind}\0{text}".encode())
        return keyed.hexdigest()
