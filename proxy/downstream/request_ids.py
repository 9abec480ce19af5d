"""The id of a request that this package answers itself (CONTRACT §15)."""

from __future__ import annotations

from os import urandom

from proxy.core.http.heads import Head
from proxy.core.request_id import FIELD, sent_id

_NAME = FIELD.lower().encode()


def request_id(head: Head | None) -> str:
    """The id that the request has, or a new one, which it has from now on; without a head, a new
    one.
    """
    if head is None:
        return urandom(16).hex()
    if head.id is None:
        # most requests have none: that is quicker to see than to look up
        sent = sent_id(head.get_all(_NAME)) if _NAME in head.block.lower() else None
        head.id = sent or urandom(16).hex()
    return head.id
