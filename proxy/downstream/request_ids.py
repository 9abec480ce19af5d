"""The id of a request that this package answers itself (CONTRACT §15)."""

from __future__ import annotations

from uuid import uuid4

from proxy.core.http.heads import Head
from proxy.core.request_id import FIELD, sent_id

_NAME = FIELD.lower().encode()


def request_id(head: Head | None) -> str:
    """The id that the request has, or a new one, which it has from now on; without a head, a new
    one.
    """
    if head is None:
        return uuid4().hex
    if head.id is None:
        head.id = sent_id(head.get_all(_NAME)) or uuid4().hex
    return head.id
