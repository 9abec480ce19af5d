"""What a proxy leaves on disk."""

from __future__ import annotations

from pathlib import Path


def at_rest(data: Path) -> dict[str, bytes]:
    """Every file below the data directory, by its path there."""
    return {
        str(file.relative_to(data)): file.read_bytes()
        for file in sorted(data.rglob("*"))
        if file.is_file()
    }
