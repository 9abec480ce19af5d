"""Who callers are: what VB365 has confirmed about their credentials (CONTRACT §2 "Caller")."""

from __future__ import annotations

from proxy.upstream.anonymous import AnonymousCheck
from proxy.upstream.bounded import BoundedDict
from proxy.upstream.credentials import Credentials
from proxy.upstream.owner_hashes import OwnerHashes


class Identities:
    """The callers whose credentials VB365 has accepted since the start.

    The entries do not expire: that VB365 once accepted a token stays true, and it grants no
    permission. They are dropped if it was not VB365 that accepted it, but a server in front of it.
    """

    def __init__(self, hashes: OwnerHashes, anonymous: AnonymousCheck) -> None:
        self._hashes = hashes
        self._anonymous = anonymous
        self._identities: BoundedDict[str, str] = BoundedDict()
        self._known: BoundedDict[str, bool] = BoundedDict()

    def owners(self, credentials: Credentials) -> tuple[str, ...]:
        """Return every owner that the credentials identify, the identity first if VB365 has
        accepted the token.
        """
        identity = self._identities.get(self._hashes.caller(credentials))
        return (*(() if identity is None else (identity,)), *self._hashes.all(credentials))

    def claimed(self, credentials: Credentials) -> str | None:
        """Return the owner that a JWT claims to be, None without claims that can be proved."""
        claims = None if self._anonymous.succeeds else credentials.claims
        return None if claims is None else self._hashes.identity(claims)

    def knows(self, credentials: Credentials) -> bool:
        """Report whether VB365 has accepted the credentials at least once."""
        return self._hashes.caller(credentials) in self._known

    def confirm(self, credentials: Credentials) -> None:
        """Note that VB365 has accepted the credentials."""
        self._known.put(self._hashes.caller(credentials), True)

    def confirm_identity(self, credentials: Credentials) -> bool:
        """Note that the identity check succeeded with exactly these credentials. The claims of a
        JWT that was sent alone are valid from now on.

        Return False if the success proves nothing, because the check succeeds without credentials.
        """
        if credentials.claims is not None and not credentials.cookie:
            claimed = self.claimed(credentials)
            if claimed is None:
                return False
            self._identities.put(self._hashes.caller(credentials), claimed)
        self.confirm(credentials)
        return True

    def clear(self) -> None:
        """Drop everything."""
        self._identities.clear()
        self._known.clear()
