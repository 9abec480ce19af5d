"""Collects what clients have left in memory."""

from __future__ import annotations

import asyncio
import gc
from typing import Protocol

#: Seconds between two looks.
_PAUSE = 1.0
#: Bytes that clients have used, and no longer use, before garbage is collected.
_AMOUNT = 32 << 20
#: Seconds until that is repeated, for what something else still had in memory.
_AGAIN = 10.0


class Used(Protocol):
    """Counts bytes that clients have used, and no longer use."""

    returned: int


class Garbage:
    """Collects garbage once clients have used much of the `budgets`' memory.

    Python's collector counts objects and not bytes. If an error leaves a request in a reference
    cycle, with its head and body, thousands of them can follow before it runs. None should: this
    bounds their sum if one does.
    """

    def __init__(self, *budgets: Used) -> None:
        self._budgets = budgets

    async def run(self) -> None:
        """Look regularly until cancelled."""
        now = asyncio.get_running_loop().time
        collected, again = self._returned(), float("inf")
        while True:
            await asyncio.sleep(_PAUSE)
            returned = self._returned()
            if returned - collected >= _AMOUNT:
                again = now() + _AGAIN
            elif now() >= again:
                again = float("inf")
            else:
                continue
            collected = returned
            gc.collect()

    def _returned(self) -> int:
        return sum(each.returned for each in self._budgets)
