"""The format of an exported file, detected by its first bytes: VB365 declares all of them
application/octet-stream (CONTRACT §5).
"""

from __future__ import annotations

from typing import Literal

Format = Literal["Pst", "Zip", "Msg", "Other"]

_MAGIC: dict[bytes, Format] = {b"!BDN": "Pst", b"PK\x03\x04": "Zip", b"\xd0\xcf\x11\xe0": "Msg"}


def sniff(first: bytes) -> Format | None:
    """The format of the file that begins with these bytes. None if more bytes are needed; a file
    that ends here is Other.
    """
    for magic, name in _MAGIC.items():
        if first.startswith(magic):
            return name
    return None if any(magic.startswith(first) for magic in _MAGIC) else "Other"
