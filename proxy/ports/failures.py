"""Failures of stores. Their texts are for the log: they may name paths and hosts."""

from __future__ import annotations


class StoreUnavailable(Exception):
    """The store could not be read or written. As far as is known nothing changed (CONTRACT §11
    store-unavailable).
    """


class RecordDamaged(StoreUnavailable):
    """The store has a record of the job that is not readable. It is left as it is."""


class PartialLost(StoreUnavailable):
    """The partial file was closed, removed, or started again by another writer. Retrying is
    useless.
    """


class StorageFull(Exception):
    """There is not enough space for the bytes (CONTRACT §5 StorageFull)."""


class StorageRefused(StorageFull):
    """The store refuses the bytes for a reason that neither time nor space changes. Repeating the
    request is useless.
    """


class LengthMismatch(Exception):
    """The partial file does not have the length to commit. It stays uncommitted."""


class KeyTaken(Exception):
    """A change would give a job a key that another job has (CONTRACT §8). Nothing changed."""
