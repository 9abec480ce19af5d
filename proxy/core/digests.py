"""Shortening of long texts in records of ended jobs (CONTRACT §3.5 "Records are bounded")."""

from __future__ import annotations

import hashlib
import json


def shortened(text: str, *, limit: int, keep: int = 1024) -> str:
    """The text if it has at most `limit` bytes as JSON. Otherwise its beginning, of about `keep`
    bytes, followed by `…sha256:<hex digest of the whole text>`.

    Records are stored as JSON, in which a character may take twelve bytes.
    """
    if _size(text) <= limit:
        return text
    kept = text[:keep]
    while _size(kept) > 2 * keep:
        kept = kept[: len(kept) // 2]
    return f"{kept}…sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _size(text: str) -> int:
    return len(json.dumps(text)) - 2
