"""Request fields with credentials, sealed for the store if a key is configured (CONTRACT §9).

The sealer with a key is in a file of its own: its library takes 9 MiB of memory.
"""

from __future__ import annotations

from typing import Protocol

from proxy.ports import Fields


class Sealer(Protocol):
    """Seals request fields, which hold credentials, for the job's record."""

    def seal(self, fields: Fields) -> str | None:
        """The fields, encrypted; None if they stay in memory only."""

    def unseal(self, sealed: str) -> Fields | None:
        """The fields that were sealed; None if no key fits."""


class MemoryOnly:
    """The default: credentials never reach the store."""

    def seal(self, fields: Fields) -> str | None:
        """Return None."""
        return None

    def unseal(self, sealed: str) -> Fields | None:
        """Return None: a record sealed with a removed key waits for its owner's next call."""
        return None
