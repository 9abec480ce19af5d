"""The cache of VB365's successes (CONTRACT §9). Denials are not cached, so that a newly granted
permission takes effect at once.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.upstream.bounded import BoundedDict
from proxy.upstream.credentials import Credentials
from proxy.upstream.owner_hashes import OwnerHashes


class Decisions:
    """What VB365 has allowed in the last `lifetime` seconds; `now` returns seconds.

    A decision applies to the exact Authorization and Cookie lines that VB365 saw together, because
    it may need both or read only one. Keyed by token alone, a cookie would vouch for any token sent
    with it; keyed by caller alone, one cookie's permissions would pass to another's.
    """

    def __init__(self, hashes: OwnerHashes, *, lifetime: float, now: Callable[[], float]) -> None:
        self._hashes = hashes
        self._lifetime = lifetime
        self._now = now
        # Maps (credentials, kind, subject) to the end of the entry's lifetime and the caller. The
        # credentials determine the caller, whose hash a look-up does not need.
        self._ends: BoundedDict[tuple[str, str, str], tuple[float, str]] = BoundedDict()

    def put(self, credentials: Credentials, kind: str, subject: str) -> None:
        """Note that VB365 has allowed these credentials the subject."""
        end, caller = self._now() + self._lifetime, self._hashes.caller(credentials)
        self._ends.put(self._key(credentials, kind, subject), (end, caller))

    def has(self, credentials: Credentials, kind: str, subject: str) -> bool:
        """Report whether that was noted less than a lifetime ago."""
        found = self._ends.get(self._key(credentials, kind, subject))
        return found is not None and self._now() < found[0]

    def drop(self, credentials: Credentials) -> None:
        """Drop everything of this caller."""
        caller = self._hashes.caller(credentials)
        for key in [key for key, (_, each) in self._ends.items() if each == caller]:
            del self._ends[key]

    def clear(self) -> None:
        """Drop everything."""
        self._ends.clear()

    def _key(self, credentials: Credentials, kind: str, subject: str) -> tuple[str, str, str]:
        return (self._hashes.exact(credentials), kind, subject)
