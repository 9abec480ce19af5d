"""Signatures as Standard Webhooks 1.0.0 defines them, "Verifying webhook authenticity"."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """Return the key in a secret, `whsec_` and base64. Raises ValueError."""
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)


def sign(keys: Iterable[bytes], id: str, timestamp: int, body: bytes) -> str:
    """Return the value of webhook-signature: one signature per key, so that keys can be rotated."""
    content = b"%b.%d.%b" % (id.encode(), timestamp, body)
    return " ".join(f"v1,{_signature(key, content)}" for key in keys)


def _signature(key: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
