"""What kind of file an export is, told by its first bytes: U declares them all octet-stream
(CONTRACT §5).
"""

from __future__ import annotations

from typing import Literal

Format = Literal["Pst", "Zip", "Msg", "Other"]

_MAGIC: dict[bytes, Format] = {b"!BDN": "Pst", b"PK\x03\x04": "Zip", b"\xd0\xcf\x11\xe0": "Msg"}


def sniff(first: bytes) -> Format | None:
    """The format told by a file's first bytes; None when they are too few to tell (at the file's
    end: Other).
    """
    for magic, name in _MAGIC.items():
        if first.startswith(magic):
            return name
    return None if any(magic.startswith(first) for magic in _MAGIC) else "Other"
