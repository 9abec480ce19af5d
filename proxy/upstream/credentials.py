"""The credentials of a request, and the claims of a token (CONTRACT §2 "Caller")."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from proxy.core.http.fields import values_of
from proxy.ports import Fields

#: Bytes of the longest token whose claims are read (CONTRACT §12: token fields of 64 KiB pass). To
#: decode 256 KiB takes 30 ms.
_MAX_JWT = 64 << 10
#: The compact form of a signed JWT (RFC 7515 §7.1), without any other text: VB365, or a server in
#: front of it, may read only a part of a longer value.
_JWT = re.compile(rb"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")


@dataclass(frozen=True)  # without slots, for the cached properties
class Credentials:
    """The Authorization and Cookie lines of one request. Never stored.

    They may have 256 KiB, and a list looks at them for each job: what is computed from them is kept
    with them. `hashes` is for `OwnerHashes`.
    """

    authorization: tuple[bytes, ...]
    cookie: tuple[bytes, ...]
    hashes: dict[tuple[bytes, str], str] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, fields: Fields) -> Credentials | None:
        """Return the credentials in a request's fields, None without any (CONTRACT §3.2)."""
        found = cls(tuple(values_of(fields, b"authorization")), tuple(values_of(fields, b"cookie")))
        return found if found.authorization or found.cookie else None

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The fields of a check with these credentials. `Upstream` adds VB365's own Host."""
        return [
            *((b"Authorization", value) for value in self.authorization),
            *((b"Cookie", value) for value in self.cookie),
            (b"Accept", b"application/json"),
        ]

    @cached_property
    def bearer(self) -> bytes | None:
        """The bearer token without spaces around it, None if Authorization is anything else."""
        return None if self._token is None else _trimmed(self._token)

    @cached_property
    def _token(self) -> bytes | None:
        if len(self.authorization) != 1:
            return None  # it is not known which of several lines VB365 uses
        scheme, _, token = self.authorization[0].partition(b" ")
        return token.strip(b" ") if scheme.lower() == b"bearer" else None

    @cached_property
    def claims(self) -> str | None:
        """The issuer, the subject and the name of the subject's claim in a JWT, None without them.
        Invalid until VB365 accepts the token. Equal subjects in different claims differ.
        """
        return None if self._token is None else _claims(self._token)

    def parts(self) -> Sequence[Credentials]:
        """Return Authorization alone and Cookie alone, in this order, without empty ones."""
        if self.authorization and self.cookie:
            return self._split
        return [self] if self.authorization or self.cookie else []

    @cached_property
    def _split(self) -> Sequence[Credentials]:
        return [Credentials(self.authorization, ()), Credentials((), self.cookie)]


def _trimmed(token: bytes) -> bytes:
    """Return the token without what .NET takes for white space around it, in UTF-8 or Latin-1: no
    spelling of a token is another caller. One that is not ASCII is returned as it is: the last byte
    of a character may look like white space.
    """
    text = token.decode("utf-8", "surrogateescape").strip()
    trimmed = text.encode("utf-8", "surrogateescape").strip(b" \t\x85\xa0")
    return trimmed if trimmed.isascii() else token


def _claims(token: bytes) -> str | None:
    match = _JWT.fullmatch(token) if len(token) <= _MAX_JWT else None
    if match is None:
        return None
    payload = match[1]
    try:
        decoded = base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))
        claims = json.loads(decoded.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not issuer:
        return None
    for name in ("sub", "unique_name", "nameid", "upn"):
        subject = claims.get(name)
        if isinstance(subject, str) and subject:
            # version 0.1.0 stored no claim name
            return json.dumps([issuer, subject] if name == "sub" else [issuer, subject, name])
    return None
