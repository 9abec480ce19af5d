"""CONTRACT §5: `format` is detected by the first bytes."""

from __future__ import annotations

import pytest

from proxy.core.formats import sniff


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"!BDN\x00\x01", "Pst"),
        (b"!BDN", "Pst"),
        (b"PK\x03\x04rest", "Zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Msg"),
        (b"<html>", "Other"),
        (b"x", "Other"),
        (b"PK\x05\x06", "Other"),
        (b"!bdn", "Other"),
        (b"", None),
        (b"!", None),
        (b"!BD", None),
        (b"PK\x03", None),
        (b"\xd0\xcf\x11", None),
    ],
)
def test_the_format_is_detected_by_the_first_bytes(first: bytes, expected: str | None) -> None:
    r"""§5: `!BDN` Pst, `PK\x03\x04` Zip, `D0CF11E0` Msg, else Other; None while they are too
    few.
    """
    assert sniff(first) == expected
