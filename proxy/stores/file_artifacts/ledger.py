"""What the files of an artifact store take, without asking the disk."""

from __future__ import annotations

from collections.abc import Hashable, Mapping


class Ledger:
    """Bytes by entry. An entry is (id, "file" or "partial") for a file at rest, and its writer for
    one that grows.
    """

    def __init__(self) -> None:
        self._sizes: dict[Hashable, int] = {}
        self.total = 0
        self.changes = 0

    def put(self, entry: Hashable, size: int) -> None:
        """The entry takes `size` bytes from now on."""
        self.total += size - self._sizes.get(entry, 0)
        self._sizes[entry] = size
        self.changes += 1

    def drop(self, *entries: Hashable) -> None:
        """The entries take nothing any more."""
        for entry in entries:
            self.total -= self._sizes.pop(entry, 0)
        self.changes += 1

    def recount(self, found: Mapping[tuple[str, str], int], since: int) -> None:
        """Take over what a look at the disk found, unless something has changed `since` then: on a
        volume that is shared others store and remove too.
        """
        if self.changes != since:
            return
        growing = {
            entry: size for entry, size in self._sizes.items() if not isinstance(entry, tuple)
        }
        self._sizes = growing | dict(found)
        self.total = sum(self._sizes.values())
