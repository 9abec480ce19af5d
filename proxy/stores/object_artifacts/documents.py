"""Reads the two documents of a job under a fence: its partial file and its artifact."""

from __future__ import annotations

from proxy.ports import StoreUnavailable
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.layout import Commit, Head, Place


async def read_head(bucket: Bucket, place: Place) -> Head | None:
    """The partial file, or None. Raises `StoreUnavailable`, also if it is damaged."""
    stored = await bucket.read(place.head)
    if stored is None:
        return None
    try:
        return Head.decode(stored)
    except ValueError as why:
        raise StoreUnavailable(f"{bucket.location}: {place.head} is damaged: {why}") from why


async def read_commit(bucket: Bucket, place: Place) -> Commit | None:
    """The artifact, or None. Raises `StoreUnavailable`, also if it is damaged."""
    stored = await bucket.read(place.commit)
    if stored is None:
        return None
    try:
        return Commit.decode(place.id, stored)
    except ValueError as why:
        raise StoreUnavailable(f"{bucket.location}: {place.commit} is damaged: {why}") from why
