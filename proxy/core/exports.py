"""The export rule: which request is an export, of which session, and what it is called (CONTRACT
§1).

Everything here looks at the raw bytes of the request target: never decoded, never normalised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# Linear on any input: a segment and the slash that ends it can be matched in one way only.
_EXPORT = re.compile(
    rb"/(v\d+)/restoresessions/([^/]+)/organization/(?:[^/]+/)*(exporttopst|save|export)/?",
    re.IGNORECASE,
)
_REPORT = re.compile(rb"/(v\d+)/reports/(generate[^/]+)/?", re.IGNORECASE)
#: For a server that decodes the path before it splits it `S1%2F..%2FS2` is S2: the session that is
#: asked for would not be the one that is exported from. `%2F%2F` is ordinary: base64 ids hold it.
_DOT_SEGMENT = re.compile(rb"(?:/|\\|%2f|%5c)(?:\.|%2e){1,2}(?=/|\\|%2f|%5c|\Z)", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"[a-z][a-z0-9+.-]*://[^/?]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Export:
    """A request that the rule selects. Text is the raw bytes as latin-1.

    `api` is the version segment in lower case (`v8`); `session` the restore session's id segment
    and `parent` the path minus its last segment without a trailing slash, both None for reports;
    `title` the last segment as sent.
    """

    api: str
    session: str | None
    parent: str | None
    title: str
    kind: Literal["Export", "Save"]


def split_target(target: bytes) -> tuple[bytes, bytes | None]:
    """The path and the query (None without a `?`) of a raw request target (RFC 9112 §3.2).

    Of the absolute form the path component (b"" when it has none); b"" for the authority and
    asterisk forms.
    """
    path, mark, query = target.partition(b"?")
    if not path.startswith(b"/"):
        absolute = _ABSOLUTE.match(path)
        path = path[absolute.end() :] if absolute else b""
    return path, query if mark else None


def match(method: bytes, target: bytes, *, reports: bool = False) -> Export | None:
    """The export that this request asks for, or None (CONTRACT §1). `reports` adds `POST
    /v{N}/Reports/Generate…`.
    """
    if method != b"POST":
        return None
    path, _ = split_target(target)
    if found := _EXPORT.fullmatch(path):
        return None if _DOT_SEGMENT.search(path) else _export(found)
    if reports and (found := _REPORT.fullmatch(path)) and not _DOT_SEGMENT.search(path):
        return Export(_text(found[1]).lower(), None, None, _text(found[2]), "Export")
    return None


def _export(found: re.Match[bytes]) -> Export:
    title = _text(found[3])
    return Export(
        api=_text(found[1]).lower(),
        session=_text(found[2]),
        parent=_text(found.string[: found.start(3) - 1]),
        title=title,
        kind="Save" if title.lower() == "save" else "Export",
    )


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
