"""File names in Content-Disposition: read and made safe, and written (CONTRACT §6; RFC 6266, RFC
8187).
"""

from __future__ import annotations

import re
import unicodedata
from base64 import b64decode
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes

#: The longest name, in bytes of UTF-8. File systems accept 255, and clients append their own
#: endings.
MAX_NAME = 200
_MAX_EXTENSION = 20

_PARAMETER = re.compile(rb'(?:[^;"]|"(?:[^"\\]|\\.?)*(?:"|\Z))+', re.DOTALL)
#: With a drive, a share or a variable, or with two or more backslashes that do not escape a quote
#: or a backslash.
_WINDOWS_PATH = re.compile(
    rb'(?:[A-Za-z]:[\\/]|\\\\|\.{1,2}\\|%\w+%\\)(?!["\\])|(?:[^"\\]*+\\(?!["\\])){2}'
)
_EXTENDED = re.compile(
    rb"(utf-8|iso-8859-1)'[^']*+'((?:[!#$&+.^_`|~0-9A-Za-z-]|%[0-9a-f]{2})*)", re.IGNORECASE
)
# ContentDispositionHeaderValue.FileName of ASP.NET encodes names that are not ASCII like this,
# against RFC 6266.
_ENCODED_WORD = re.compile(
    r"=\?(utf-8|iso-8859-1)\?([bq])\?([!->@-~]*)\?=(?:[ \t]++(?==\?))?", re.IGNORECASE
)
_UNSAFE = re.compile(r'[<>:"|?*]')
_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(?:\.|\Z)", re.IGNORECASE
)
_NOT_PLAIN = re.compile(r'[^ -~]|["%/\\]')


def file_name(content_disposition: bytes | None) -> str | None:
    """The safe form of `filename*`, otherwise of `filename`, in the field value. None if neither is
    usable.

    Safe is a single path component of at most `MAX_NAME` bytes that all file systems accept and no
    terminal misreads.
    """
    named = dict(_parameters(content_disposition or b""))
    for candidate in (_extended(named.get(b"filename*")), _plain(named.get(b"filename"))):
        if candidate and (name := safe_name(candidate)):
            return name
    return None


def _parameters(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names in lower case and unquoted values, in reverse order, so that the first of each name
    wins in a dict.
    """
    for found in reversed(_PARAMETER.findall(value)):
        name, equals, text = found.partition(b"=")
        if equals:
            yield name.strip(b" \t").lower(), _unquoted(text.strip(b" \t"))


def _unquoted(text: bytes) -> bytes:
    """The content of a quoted-string, without its escapes unless it is a Windows path.

    VB365 may write its own path unescaped: by RFC 9110 §5.6.4 the separators would be removed.
    """
    if not text.startswith(b'"'):
        return text
    content = text[1:].removesuffix(b'"')
    return (
        content
        if _WINDOWS_PATH.match(content)
        else re.sub(rb"\\(.)", rb"\1", content, flags=re.DOTALL)
    )


def _extended(value: bytes | None) -> str | None:
    """Decode an ext-value (RFC 8187). None unless it is well-formed, in UTF-8 or ISO-8859-1 (RFC
    5987).
    """
    found = _EXTENDED.fullmatch(value or b"")
    if found is None:
        return None
    try:
        return unquote_to_bytes(found[2]).decode(found[1].decode())
    except UnicodeDecodeError:
        return None


def _plain(value: bytes | None) -> str | None:
    """Decode UTF-8, otherwise latin-1, and encoded words (RFC 2047)."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return _ENCODED_WORD.sub(_decoded_word, text)


def _decoded_word(found: re.Match[str]) -> str:
    charset, encoding, text = found.groups()
    try:
        if encoding in "bB":
            return b64decode(text, validate=True).decode(charset)
        return unquote_to_bytes(
            text.replace("%", "%25").replace("_", " ").replace("=", "%")
        ).decode(charset)
    except ValueError:
        return found[0]


def safe_name(name: str) -> str:
    """The last path component, without what is invisible, forbidden or reserved on any system. ""
    if nothing remains.
    """
    component = re.split(r"[/\\]", name)[-1]
    visible = "".join(c for c in component if unicodedata.category(c) not in _HIDDEN_CATEGORIES)
    trimmed = _UNSAFE.sub("_", visible).lstrip(". ").rstrip(". ")
    return _shortened("_" + trimmed if _RESERVED.match(trimmed) else trimmed)


def _shortened(name: str) -> str:
    """Shorten to `MAX_NAME` bytes of UTF-8, and keep the extension."""
    if len(name.encode()) <= MAX_NAME:
        return name
    stem, dot, extension = name.rpartition(".")
    if len(extension.encode()) > _MAX_EXTENSION:
        stem, dot, extension = name, "", ""
    limit = MAX_NAME - len((dot + extension).encode())
    return stem.encode()[:limit].decode(errors="ignore").rstrip(". ") + dot + extension


def content_disposition(name: str) -> str:
    """The field value for a file with this name: an ASCII approximation, and the name itself (RFC
    6266 §4.3).
    """
    decomposed = unicodedata.normalize("NFKD", name)
    ascii_only = "".join(c for c in decomposed if not unicodedata.combining(c))
    plain = safe_name(_NOT_PLAIN.sub("_", ascii_only)) or "export"
    extended = quote(name, safe="!#$&+-.^_`|~", errors="replace")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{extended}"
