"""What the jobs ask about credentials."""

from __future__ import annotations

from typing import Protocol

from proxy.ports import Fields


class Trust(Protocol):
    """What is known of the credentials among request fields (CONTRACT §9)."""

    def knows(self, fields: Fields, /) -> bool:
        """Return whether VB365 has ever accepted them."""

    async def rejects(self, fields: Fields, /) -> bool:
        """Ask VB365 whether it rejects them. No response counts as no."""

    def distrust(self, fields: Fields, /) -> None:
        """Note that VB365 has just rejected them."""
