"""The operations that answer with a file: 29 exports per version and the reports (docs/upstream.md §1), and the tree
below a restore session in which the exports' parents live."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from proxy.simulator.content import Kind

#: `|`: the first, or the second if the body asks for it. `v8`, `<v8`: served by those versions only.
_TABLE = """
organization/exportToPst                                                             pst|pst.zip
organization/mailboxes/{mailbox}/exportToPst                                         pst|pst.zip
organization/mailboxes/{mailbox}/folders/{folder}/exportToPst                        pst|pst.zip
organization/mailboxes/{mailbox}/items/exportToPst                                   pst|pst.zip
organization/mailboxes/{mailbox}/items/{item}/exportToPst                            pst|pst.zip
organization/mailboxes/{mailbox}/items/Save                                          msg.zip
organization/mailboxes/{mailbox}/items/{item}/save                                   msg
Organization/OneDrives/{drive}/save                                                  zip
Organization/OneDrives/{drive}/Documents/save                                        zip
Organization/OneDrives/{drive}/Documents/{document}/save                             txt|zip
Organization/OneDrives/{drive}/Documents/{document}/Versions/{version}/save          txt|zip
Organization/OneDrives/{drive}/Folders/save                                          zip
Organization/OneDrives/{drive}/Folders/{folder}/save                                 zip
Organization/OneDrives/{drive}/Folders/{folder}/Versions/{version}/save              zip
Organization/Sites/{site}/Items/{item}/Attachments/save                              zip
Organization/Sites/{site}/Items/{item}/Attachments/{attachment}/save                 zip
Organization/Sites/{site}/Documents/save                                             zip
Organization/Sites/{site}/Documents/{document}/save                                  txt|zip
Organization/Sites/{site}/Documents/{document}/Versions/{version}/save               txt|zip
Organization/Sites/{site}/Folders/save                                               zip
Organization/Sites/{site}/Folders/{folder}/save                                      zip
Organization/Sites/{site}/Folders/{folder}/Versions/{version}/save                   zip
Organization/Sites/{site}/Libraries/{library}/save                                   zip
organization/teams/{team}/files/save                                                 zip
organization/teams/{team}/files/{file}/save                                          txt|zip       <v8
organization/teams/{team}/channels/{channel}/files/{file}/save                       txt|zip       v8
organization/teams/{team}/posts/save                                                 msg.zip
organization/teams/{team}/posts/{post}/save                                          msg
organization/teams/{team}/posts/export                                               html
organization/teams/{team}/posts/{post}/export                                        html
"""

#: Report names; the last three came with v8.
REPORTS = (
    "LicenseOverview",
    "StorageConsumption",
    "MailboxProtection",
    "UserProtection",
    "OneDriveProtection",
    "TeamsProtection",
    "SharepointProtection",
)
_V6_REPORTS = 4

#: A ZIP of PSTs has no more members than this, however small the limit that was asked for.
_MOST_PARTS = 64

Tree = dict[str, "Tree"]

#: Collections below `organization`, by lower-case name: `/<collection>[/<id>[/<collection>…]]`.
TREE: Tree = {
    "mailboxes": {"folders": {}, "items": {}},
    "onedrives": {"documents": {"versions": {}}, "folders": {"versions": {}}},
    "sites": {
        "items": {"attachments": {}},
        "documents": {"versions": {}},
        "folders": {"versions": {}},
        "libraries": {},
        "lists": {},
    },
    "teams": {"channels": {"files": {}}, "files": {}, "posts": {}},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One export: `template` below the session, the kinds of file it answers, the API versions that serve it."""

    template: str
    kind: Kind
    other: Kind | None
    versions: frozenset[int]

    @property
    def title(self) -> str:
        """The last path segment, e.g. exportToPst."""
        return self.template.rpartition("/")[2]

    @property
    def event(self) -> str:
        """The type of the event it leaves in the session."""
        return "Save" if self.title.lower() == "save" else "Export"

    def choose(self, body: bytes, size: int) -> tuple[Kind, int]:
        """The kind of file, and how many members a ZIP has, for this request body and file size in bytes."""
        if self.other is Kind.PST_ZIP:
            limit = _number(body, "pstSizeLimitBytes")
            if _flag(body, "enablePstSizeLimit") and limit and size > limit:
                return Kind.PST_ZIP, min(_MOST_PARTS, -(-size // limit))
        elif self.other is not None and _flag(body, "asZip"):
            return self.other, 2
        return self.kind, 2


def _flag(body: bytes, name: str) -> bool:
    """Bodies in the wild are not strict JSON (trailing commas, booleans as strings), so they are searched."""
    return re.search(rb'"%s"\s*:\s*"?true' % name.encode(), body, re.IGNORECASE) is not None


def _number(body: bytes, name: str) -> int:
    found = re.search(rb'"%s"\s*:\s*"?(\d{1,18})' % name.encode(), body, re.IGNORECASE)
    return int(found[1]) if found else 0


def _operation(row: str) -> Operation:
    template, kinds, *only = row.split()
    first, _, other = kinds.partition("|")
    versions = {"v8": {8}, "<v8": {6, 7}}[only[0]] if only else {6, 7, 8}
    return Operation(template, Kind(first), Kind(other) if other else None, frozenset(versions))


OPERATIONS = tuple(_operation(row) for row in _TABLE.strip().splitlines())
_PATTERNS = [
    (re.compile(re.sub(r"\{\w+\}", "[^/]+", operation.template), re.IGNORECASE), operation) for operation in OPERATIONS
]


def find(version: int, segments: list[str]) -> Operation | None:
    """The export served by that version at these raw path segments below the session."""
    path = "/".join(segments)
    for pattern, operation in _PATTERNS:
        if version in operation.versions and pattern.fullmatch(path):
            return operation
    return None


def report(version: int, name: str) -> Operation | None:
    """The report that `POST /v{N}/Reports/<name>` generates."""
    served = REPORTS if version >= 8 else REPORTS[:_V6_REPORTS]
    for known in served:
        if name.lower() == f"generate{known}".lower():
            return Operation(f"Generate{known}", Kind.PDF, None, frozenset({version}))
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path below `organization` leads: collection names (lower case) and decoded ids, taken in turn."""

    collections: tuple[str, ...]
    ids: tuple[str, ...]

    @property
    def is_page(self) -> bool:
        """True for a collection, False for one of its members."""
        return len(self.collections) > len(self.ids)

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids above the last collection."""
        return self.ids[: len(self.collections) - 1]


def walk(segments: list[str]) -> Place | None:
    """The place that these raw segments below `organization` name; None if there is no such collection."""
    tree, names = TREE, []
    for name in segments[::2]:
        if name.lower() not in tree:
            return None
        names.append(name.lower())
        tree = tree[name.lower()]
    return Place(tuple(names), tuple(unquote(segment) for segment in segments[1::2]))
