"""The credential safe: a live job's request fields, sealed for the store where the admin gave a key
(CONTRACT §9).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from proxy.ports import Fields


class Sealer(Protocol):
    """Seals request fields, which hold credentials, for the job's record."""

    def seal(self, fields: Fields) -> str | None:
        """The fields as text that tells nothing without the key; None if they stay in memory
        only.
        """

    def unseal(self, sealed: str) -> Fields | None:
        """The fields again; None if no key fits."""


class MemoryOnly:
    """The default: credentials never reach the store."""

    def seal(self, fields: Fields) -> str | None:
        """None, always."""
        return None

    def unseal(self, sealed: str) -> Fields | None:
        """None: a record sealed under a key that is configured no more waits for its owner's
        call.
        """
        return None


class FernetSealer:
    """Seals with the first of `keys` and opens with any of them, so that keys can be rotated."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def seal(self, fields: Fields) -> str | None:
        """The fields, encrypted and authenticated."""
        plain = json.dumps(
            [[name.decode("latin-1"), value.decode("latin-1")] for name, value in fields]
        )
        return self._fernet.encrypt(plain.encode()).decode("ascii")

    def unseal(self, sealed: str) -> Fields | None:
        """The fields again; None if none of the keys fits."""
        try:
            plain = self._fernet.decrypt(sealed)
        except (InvalidToken, ValueError):  # ValueError: not even ASCII
            return None
        return [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(plain)
        ]
