"""Numbers for people: sizes in binary units, counts with separators."""

from __future__ import annotations

_UNITS = ((4, "TiB"), (3, "GiB"), (2, "MiB"))


def size(count: float) -> str:
    """A number of bytes with at most one decimal: `1.2 GiB`, `5 GiB`, `0 KiB`."""
    power, name = next((unit for unit in _UNITS if count >= 1024 ** unit[0]), (1, "KiB"))
    return f"{count / 1024**power:.1f}".removesuffix(".0") + f" {name}"


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 export`, `1,000 exports`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
