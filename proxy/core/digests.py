"""Long texts of ended jobs, kept as their beginning and a digest (CONTRACT §3.5 "Records are
bounded").
"""

from __future__ import annotations

import hashlib
import json


def shortened(text: str, *, limit: int, keep: int = 1024) -> str:
    """The text if it has at most `limit` bytes as JSON, else about its first `keep` and
    `…sha256:<hex>` of the whole.

    JSON is how records are stored: there a character may take six bytes.
    """
    if _size(text) <= limit:
        return text
    kept = text[:keep]
    while _size(kept) > 2 * keep:
        kept = kept[: len(kept) // 2]
    return f"{kept}…sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _size(text: str) -> int:
    return len(json.dumps(text)) - 2
