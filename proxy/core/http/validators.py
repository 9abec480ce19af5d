"""Strong entity tags, which prove that two parts are of one file (RFC 9110 §8.8.1, §15.3.7.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy.core.http.fields import Field, has_conflict, value_of

#: RFC 9110 §8.8.3: a weak one begins with `W/`. An empty one is valid there, but servers on which
#: ETags are switched off, such as IIS, send it with every file: it proves nothing.
_STRONG = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]+"')


def strong(etag: bytes | None) -> bytes | None:
    """The entity tag, None if it is weak, empty or malformed."""
    return etag if etag is not None and _STRONG.fullmatch(etag) else None


def strong_etag(fields: Iterable[Field]) -> bytes | None:
    """The entity tag of a response with these fields. None if it is weak, empty or malformed, or if
    there are different ones.
    """
    fields = list(fields)
    return None if has_conflict(fields, b"etag") else strong(value_of(fields, b"etag"))
