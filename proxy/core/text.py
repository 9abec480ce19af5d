"""Decoding of text files, and escaping of text for display."""

from __future__ import annotations

#: The byte order marks of UTF-16, which `>` of Windows PowerShell writes.
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class NotUtf8(ValueError):
    """A file has another encoding. The text names it ("is UTF-16"); `fix` says what to do."""

    fix = "save it as UTF-8"


def decoded(data: bytes) -> str:
    """Decode UTF-8, with or without the byte order mark that Windows programs write.

    Raises `NotUtf8`.
    """
    if data.startswith(UTF_16) or b"\x00" in data[:2]:
        raise NotUtf8("is UTF-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as why:
        raise NotUtf8(f"is not UTF-8 (byte {why.start + 1})") from None


def visible(text: str) -> str:
    """The text on one line, with every character that is not printable escaped: control characters
    (C0 and C1), separators other than the space, formatting characters (zero-width, bidirectional)
    and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
