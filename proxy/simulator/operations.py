"""The operations that return a file, and the collections of objects that they act on.

These are 29 exports per API version and the reports (docs/upstream.md §1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from proxy.simulator.content import Kind

#: Path template, kind of file, and API versions (`v8` only, `<v8` only, or all). The kind after `|`
#: is the one that the request body can ask for instead.
_TABLE = """
organization/exportToPst                                                     pst|pst.zip
organization/mailboxes/{mailbox}/exportToPst                                 pst|pst.zip
organization/mailboxes/{mailbox}/folders/{folder}/exportToPst                pst|pst.zip
organization/mailboxes/{mailbox}/items/exportToPst                           pst|pst.zip
organization/mailboxes/{mailbox}/items/{item}/exportToPst                    pst|pst.zip
organization/mailboxes/{mailbox}/items/Save                                  msg.zip
organization/mailboxes/{mailbox}/items/{item}/save                           msg
Organization/OneDrives/{drive}/save                                          zip
Organization/OneDrives/{drive}/Documents/save                                zip
Organization/OneDrives/{drive}/Documents/{document}/save                     txt|zip
Organization/OneDrives/{drive}/Documents/{document}/Versions/{version}/save  txt|zip
Organization/OneDrives/{drive}/Folders/save                                  zip
Organization/OneDrives/{drive}/Folders/{folder}/save                         zip
Organization/OneDrives/{drive}/Folders/{folder}/Versions/{version}/save      zip
Organization/Sites/{site}/Items/{item}/Attachments/save                      zip
Organization/Sites/{site}/Items/{item}/Attachments/{attachment}/save         zip
Organization/Sites/{site}/Documents/save                                     zip
Organization/Sites/{site}/Documents/{document}/save                          txt|zip
Organization/Sites/{site}/Documents/{document}/Versions/{version}/save       txt|zip
Organization/Sites/{site}/Folders/save                                       zip
Organization/Sites/{site}/Folders/{folder}/save                              zip
Organization/Sites/{site}/Folders/{folder}/Versions/{version}/save           zip
Organization/Sites/{site}/Libraries/{library}/save                           zip
organization/teams/{team}/files/save                                         zip
organization/teams/{team}/files/{file}/save                                  txt|zip      <v8
organization/teams/{team}/channels/{channel}/files/{file}/save               txt|zip      v8
organization/teams/{team}/posts/save                                         msg.zip
organization/teams/{team}/posts/{post}/save                                  msg
organization/teams/{team}/posts/export                                       html
organization/teams/{team}/posts/{post}/export                                html
"""

#: The report names; v6 and v7 have only the first four.
REPORTS = (
    "LicenseOverview",
    "StorageConsumption",
    "MailboxProtection",
    "UserProtection",
    "OneDriveProtection",
    "TeamsProtection",
    "SharepointProtection",
)
_REPORTS_BEFORE_V8 = 4

#: The maximum number of members of a ZIP of PSTs, even if the requested PST size limit needs more.
_MAX_ZIP_MEMBERS = 64

CollectionTree = dict[str, "CollectionTree"]

#: The collections below `organization`, by lower-case name, as in the path
#: `<collection>[/<id>[/<collection>…]]`.
COLLECTIONS: CollectionTree = {
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
    """An export or report.

    `template` is the path below the restore session. `kind` is the kind of file returned,
    `other_kind` the kind that the request body can ask for instead.
    """

    template: str
    kind: Kind
    other_kind: Kind | None
    versions: frozenset[int]

    @property
    def title(self) -> str:
        """The last path segment, for example exportToPst."""
        return self.template.rpartition("/")[2]

    @property
    def event(self) -> str:
        """The type of the event that it adds to the restore session."""
        return "Save" if self.title.lower() == "save" else "Export"

    def choose(self, body: bytes, size: int) -> tuple[Kind, int]:
        """Return the kind of file and the number of members a ZIP has.

        `body` is the request body, `size` the file size in bytes.
        """
        if self.other_kind is Kind.PST_ZIP:
            limit = _number(body, "pstSizeLimitBytes")
            if _flag(body, "enablePstSizeLimit") and limit and size > limit:
                return Kind.PST_ZIP, min(_MAX_ZIP_MEMBERS, -(-size // limit))
        elif self.other_kind is not None and _flag(body, "asZip"):
            return self.other_kind, 2
        return self.kind, 2


def _flag(body: bytes, name: str) -> bool:
    """Return whether a member of the body is true.

    The body is searched rather than parsed, because real clients send invalid JSON: trailing commas
    and booleans as strings.
    """
    pattern = rb'"%s"\s*:\s*"?true' % name.encode()
    return re.search(pattern, body, re.IGNORECASE) is not None


def _number(body: bytes, name: str) -> int:
    """Return the value of an integer member of the body; 0 if there is none."""
    found = re.search(rb'"%s"\s*:\s*"?(\d{1,18})' % name.encode(), body, re.IGNORECASE)
    return int(found[1]) if found else 0


def _operation(row: str) -> Operation:
    template, kinds, *only = row.split()
    kind, _, other = kinds.partition("|")
    versions = {"v8": {8}, "<v8": {6, 7}}[only[0]] if only else {6, 7, 8}
    other_kind = Kind(other) if other else None
    return Operation(template, Kind(kind), other_kind, frozenset(versions))


OPERATIONS = tuple(_operation(row) for row in _TABLE.strip().splitlines())
_PATTERNS = [
    (re.compile(re.sub(r"\{\w+\}", "[^/]+", operation.template), re.IGNORECASE), operation)
    for operation in OPERATIONS
]


def find(version: int, segments: list[str]) -> Operation | None:
    """Return the export at these raw path segments below the session; None if there is none."""
    path = "/".join(segments)
    for pattern, operation in _PATTERNS:
        if version in operation.versions and pattern.fullmatch(path):
            return operation
    return None


def find_report(version: int, name: str) -> Operation | None:
    """Return the report of `POST /v{version}/Reports/{name}`; None if there is none."""
    for report in REPORTS if version >= 8 else REPORTS[:_REPORTS_BEFORE_V8]:
        if name.lower() == f"generate{report}".lower():
            return Operation(f"Generate{report}", Kind.PDF, None, frozenset({version}))
    return None


@dataclass(frozen=True, slots=True)
class ResourcePath:
    """The path of a collection or object below `organization`.

    `collections` are the lower-case collection names and `ids` the decoded object ids, which
    alternate in the path.
    """

    collections: tuple[str, ...]
    ids: tuple[str, ...]

    @property
    def is_collection(self) -> bool:
        """True for a collection, False for an object."""
        return len(self.collections) > len(self.ids)

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids of the objects that contain the last collection."""
        return self.ids[: len(self.collections) - 1]


def parse_path(segments: list[str]) -> ResourcePath | None:
    """Parse the raw path segments below `organization`; None if a collection does not exist."""
    tree, names = COLLECTIONS, []
    for segment in segments[::2]:
        name = segment.lower()
        if name not in tree:
            return None
        names.append(name)
        tree = tree[name]
    return ResourcePath(tuple(names), tuple(unquote(segment) for segment in segments[1::2]))
