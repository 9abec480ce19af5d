"""Text files of Windows programs, and text for display."""

from __future__ import annotations

import pytest

from proxy.core.text import NotUtf8, decoded, visible


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_decoded_with_and_without_a_byte_order_mark(encoding: str) -> None:
    assert decoded("zürich = 1\r\n".encode(encoding)) == "zürich = 1\r\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_reported(encoding: str) -> None:
    with pytest.raises(NotUtf8, match="is UTF-16"):
        decoded("[upstream]".encode(encoding))


def test_other_encodings_are_rejected() -> None:
    with pytest.raises(NotUtf8, match=r"is not UTF-8 \(byte 2\)"):
        decoded("zürich".encode("cp1252"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("日本 é", "日本 é"),
        ("a\r\nb\x1b[2J", "a\\r\\nb\\x1b[2J"),
        ("\x80\x9b\x9f", "\\x80\\x9b\\x9f"),
        ("\xa0\u200b\ufeff\u202e\u2028", "\\xa0\\u200b\\ufeff\\u202e\\u2028"),
        ("\udc9b", "\\udc9b"),
    ],
)
def test_characters_that_are_not_printable_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text).isprintable()
