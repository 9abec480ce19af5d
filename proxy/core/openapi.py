"""The description of the proxy's own resources: OpenAPI 3.1 (CONTRACT §2)."""

from __future__ import annotations

import json
from typing import Any


def describe(version: str, segment: str) -> bytes:
    """The document as JSON, for paths below `segment`."""
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "vb365-async-proxy", "version": version},
        "paths": {},
    }
    return json.dumps(document).encode()
