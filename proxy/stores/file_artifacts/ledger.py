"""The sizes of the files of an artifact store, without reading the disk."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from proxy.stores.file_artifacts.files import Entry


class Ledger:
    """The bytes of each entry: an `Entry` for a file that does not grow, and the writer of a file
    that does. Until it is `counted`, files that are on disk already are not in it.
    """

    def __init__(self) -> None:
        self._sizes: dict[Hashable, int] = {}
        self.total = 0
        self.changes = 0
        self.counted = False

    def put(self, entry: Hashable, size: int) -> None:
        """Set the size of the entry in bytes."""
        self.total += size - self._sizes.get(entry, 0)
        self._sizes[entry] = size
        self.changes += 1

    def drop(self, *entries: Hashable) -> None:
        """Remove the entries."""
        for entry in entries:
            self.total -= self._sizes.pop(entry, 0)
        self.changes += 1

    def recount(self, found: Mapping[Entry, int], since: int) -> None:
        """Replace the entries of files that do not grow by those `found` on disk, unless an entry
        has changed since `changes` was `since`. On a shared volume others store and remove files
        too.
        """
        if self.changes != since:
            return
        growing = {
            entry: size for entry, size in self._sizes.items() if not isinstance(entry, Entry)
        }
        self._sizes = growing | dict(found)
        self.total = sum(self._sizes.values())
        self.counted = True
