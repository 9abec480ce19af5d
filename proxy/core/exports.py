"""Which requests are exports, and the parts of their target (CONTRACT §1).

The request target is matched as raw bytes, never decoded or normalised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# Linear in the length of any input: a segment and its slash can be matched in one way only.
_EXPORT = re.compile(
    rb"/(v\d+)/restoresessions/([^/]+)/organization/(?:[^/]+/)*(exporttopst|save|export)/?",
    re.IGNORECASE,
)
_REPORT = re.compile(rb"/(v\d+)/reports/(generate[^/]+)/?", re.IGNORECASE)
#: To a server that decodes a path before it splits it, `S1%2F..%2FS2` is S2: the session that is
#: checked would not be the one that is exported. `%2F%2F` is allowed: base64 ids contain it.
_DOT_SEGMENT = re.compile(rb"(?:/|\\|%2f|%5c)(?:\.|%2e){1,2}(?=/|\\|%2f|%5c|\Z)", re.IGNORECASE)
_VERBS = {"exporttopst": "exportToPst", "save": "save", "export": "export"}
_ABSOLUTE = re.compile(rb"[a-z][a-z0-9+.-]*://[^/?]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Export:
    """An export request. Text is the raw bytes as latin-1.

    `api` is the version segment in lower case (`v8`); `title` the last segment as sent. `session`
    is the id segment of the restore session and `parent` the path without its last segment and
    without a trailing slash; both are None for reports.
    """

    api: str
    session: str | None
    parent: str | None
    title: str
    kind: Literal["Export", "Save"]


def split_target(target: bytes) -> tuple[bytes, bytes | None]:
    """The path and the query of a raw request target (RFC 9112 §3.2). The query is None without
    `?`.

    The path of an absolute form is its path component, which may be b""; that of the authority and
    asterisk forms is b"".
    """
    path, mark, query = target.partition(b"?")
    if not path.startswith(b"/"):
        absolute = _ABSOLUTE.match(path)
        path = path[absolute.end() :] if absolute else b""
    return path, query if mark else None


def match(method: bytes, target: bytes, *, reports: bool = False) -> Export | None:
    """The export that the request starts, or None (CONTRACT §1). With `reports`, `POST
    /v{N}/Reports/Generate…` is an export too.
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


def verb(title: str) -> str:
    """The export's name for the metrics, one of four: a title has any case, and a report any
    name.
    """
    return _VERBS.get(title.lower(), "report")
