"""What every part of the composition root needs: the clock, and how a start fails."""

from __future__ import annotations

from collections.abc import Callable

#: Returns Unix seconds, and never jumps or runs backwards: it measures durations too.
Clock = Callable[[], float]


class StartFailed(Exception):
    """The proxy cannot start. The message says why, and how to fix it."""
