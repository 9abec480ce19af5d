"""The id of a request, which a client or a server in front of the proxy may choose (CONTRACT
§15).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Its field, in requests and in the proxy's own responses.
FIELD = "X-Request-Id"
PATTERN = rb"[A-Za-z0-9._-]{1,128}"
_VALID = re.compile(PATTERN)


def sent_id(values: Sequence[bytes]) -> str | None:
    """The id among the values of the field, None without exactly one that is valid."""
    if len(values) != 1 or not _VALID.fullmatch(values[0]):
        return None
    return values[0].decode("ascii")
