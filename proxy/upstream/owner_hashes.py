"""Keyed hashes of callers and their credentials (CONTRACT §2 "Caller", §9)."""

from __future__ import annotations

import hashlib
import hmac

from proxy.upstream.credentials import Credentials


class OwnerHashes:
    """Computes the hashes, all keyed with `key`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def identity(self, claims: str) -> str:
        """Return the hash of a token's claims."""
        return self._keyed("identity", claims)

    def caller(self, credentials: Credentials) -> str:
        """Return the hash of Authorization, or of Cookie if there is no Authorization.

        A load balancer's cookie changes with every response. The spelling of the scheme `Bearer`
        does not matter.
        """
        bearer = credentials.bearer
        if bearer is not None:
            return self._lines(((b"Bearer " + bearer,), ()))
        return self.as_sent(credentials)

    def as_sent(self, credentials: Credentials) -> str:
        """Return the same hash over the bytes as they were sent, as in version 0.1.0."""
        return self._lines(
            (credentials.authorization, () if credentials.authorization else credentials.cookie)
        )

    def exact(self, credentials: Credentials) -> str:
        """Return the hash of the exact Authorization and Cookie lines."""
        return self._lines((credentials.authorization, credentials.cookie))

    def all(self, credentials: Credentials) -> tuple[str, ...]:
        """Return the three hashes of the credentials, without repetitions."""
        found = (self.caller, self.as_sent, self.exact)
        return tuple(dict.fromkeys(each(credentials) for each in found))

    def _lines(self, lines: tuple[tuple[bytes, ...], tuple[bytes, ...]]) -> str:
        return self._keyed("credentials", repr(lines))

    def _keyed(self, kind: str, text: str) -> str:
        return hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()
