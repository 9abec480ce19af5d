"""Request fields sealed with a key (CONTRACT §9 `secrets.key`)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from proxy.ports import Fields

#: Fields about one request, not about the export: a trace (W3C Trace Context) and the request's id.
_OF_THE_REQUEST = frozenset({b"traceparent", b"tracestate", b"x-request-id"})


class FernetSealer:
    """Seals with the first of `keys` and unseals with any, so that keys can be rotated."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def seal(self, fields: Fields) -> str | None:
        """The fields, encrypted and authenticated, without those about the request itself."""
        plain = json.dumps(
            [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in fields
                if name.lower() not in _OF_THE_REQUEST
            ]
        )
        return self._fernet.encrypt(plain.encode()).decode("ascii")

    def unseal(self, sealed: str) -> Fields | None:
        """The fields that were sealed; None if no key fits."""
        try:
            plain = self._fernet.decrypt(sealed)
        except (InvalidToken, ValueError):  # ValueError: not even ASCII
            return None
        return [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(plain)
        ]
