"""The id of a request that this package answers itself (CONTRACT §15)."""

from __future__ import annotations

from random import randbytes

from proxy.core.http.heads import Head
from proxy.core.request_id import FIELD, sent_id

_NAME = FIELD.lower().encode()


def request_id(head: Head | None) -> str:
    """The id that the request has, or a new one, which it has from now on; without a head, a new
    one.
    """
    if head is None:
        return new_id()
    named = head.id = known_id(head) or new_id()
    return named


def known_id(head: Head) -> str | None:
    """The id that the request has, None if it has none so far."""
    if head.id is None and head.names_id:
        return sent_id(head.get_all(_NAME))
    return head.id


def new_id() -> str:
    """An id for a request that has none."""
    # no secret, and each process has a seed of its own; a system call would take twice as long
    return randbytes(16).hex()  # noqa: S311
