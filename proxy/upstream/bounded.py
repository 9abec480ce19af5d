"""A dictionary with a maximum size."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")

#: The maximum number of entries: an attacker's tokens cannot exhaust memory.
MAX_ENTRIES = 10_000


class BoundedDict(OrderedDict[_K, _V]):
    """A dictionary that drops its oldest entry when it is full."""

    def put(self, key: _K, value: _V) -> None:
        """Set the entry and make it the newest."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > MAX_ENTRIES:
            self.popitem(last=False)
