"""The exports of VB365 that the proxy can run as jobs, for the OpenAPI description (CONTRACT §1).

They are the same in v6, v7 and v8, but for one path. The description is for people and for
generators of clients; which requests are exports is decided in `core.exports`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.core.openapi.schemas import Object, count, flag, record, ref, text

#: Path below the restore session, operationId, schema of the request body ("-" without one), what
#: the file holds. Upper and lower case are VB365's own.
_TABLE = """
organization/exportToPst | exportOrganizationToPst | PstOptions | the mailboxes of the organization
organization/mailboxes/{mailboxId}/exportToPst | exportMailboxToPst | PstOptions | a mailbox
organization/mailboxes/{mailboxId}/folders/{folderId}/exportToPst | exportMailboxFolderToPst | PstOptions | a folder of a mailbox
organization/mailboxes/{mailboxId}/items/exportToPst | exportMailboxItemsToPst | ItemsPstOptions | items of a mailbox
organization/mailboxes/{mailboxId}/items/{itemId}/exportToPst | exportMailboxItemToPst | PstSize | an item of a mailbox
organization/mailboxes/{mailboxId}/items/Save | saveMailboxItems | Items | items of a mailbox
organization/mailboxes/{mailboxId}/items/{itemId}/save | saveMailboxItem | - | an item of a mailbox
Organization/OneDrives/{oneDriveId}/save | saveOneDrive | - | a OneDrive
Organization/OneDrives/{oneDriveId}/Documents/save | saveOneDriveDocuments | Documents | documents of a OneDrive
Organization/OneDrives/{oneDriveId}/Documents/{documentId}/save | saveOneDriveDocument | AsZip | a document of a OneDrive
Organization/OneDrives/{oneDriveId}/Documents/{documentId}/Versions/{versionId}/save | saveOneDriveDocumentVersion | AsZip | a version of a document of a OneDrive
Organization/OneDrives/{oneDriveId}/Folders/save | saveOneDriveFolders | Folders | folders of a OneDrive
Organization/OneDrives/{oneDriveId}/Folders/{folderId}/save | saveOneDriveFolder | - | a folder of a OneDrive
Organization/OneDrives/{oneDriveId}/Folders/{folderId}/Versions/{versionId}/save | saveOneDriveFolderVersion | - | a version of a folder of a OneDrive
Organization/Sites/{siteId}/Items/{itemId}/Attachments/save | saveSiteAttachments | Attachments | attachments of a list item of a site
Organization/Sites/{siteId}/Items/{itemId}/Attachments/{attachmentId}/save | saveSiteAttachment | - | an attachment of a list item of a site
Organization/Sites/{siteId}/Documents/save | saveSiteDocuments | Documents | documents of a site
Organization/Sites/{siteId}/Documents/{documentId}/save | saveSiteDocument | AsZip | a document of a site
Organization/Sites/{siteId}/Documents/{documentId}/Versions/{versionId}/save | saveSiteDocumentVersion | AsZip | a version of a document of a site
Organization/Sites/{siteId}/Folders/save | saveSiteFolders | Folders | folders of a site
Organization/Sites/{siteId}/Folders/{folderId}/save | saveSiteFolder | - | a folder of a site
Organization/Sites/{siteId}/Folders/{folderId}/Versions/{versionId}/save | saveSiteFolderVersion | - | a version of a folder of a site
Organization/Sites/{siteId}/Libraries/{libraryId}/save | saveSiteLibrary | - | a library of a site
organization/teams/{teamId}/files/save | saveTeamFiles | Files | files of a team
organization/teams/{teamId}/files/{fileId}/save | saveTeamFile | AsZip | a file of a team (v6 and v7)
organization/teams/{teamId}/channels/{channelId}/files/{fileId}/save | saveTeamChannelFile | AsZip | a file of a channel of a team (from v8 on)
organization/teams/{teamId}/posts/save | saveTeamPosts | Posts | posts of a team, as MSG files
organization/teams/{teamId}/posts/{postId}/save | saveTeamPost | - | a post of a team, as an MSG file
organization/teams/{teamId}/posts/export | exportTeamPosts | PostsOfTime | posts of a team, as HTML
organization/teams/{teamId}/posts/{postId}/export | exportTeamPost | - | a post of a team, as HTML
"""  # noqa: E501  # a table

#: The tag of an export, by the collection in its path; those of the organization have none.
TAGS = {
    "mailboxes": "Mailboxes",
    "onedrives": "OneDrives",
    "sites": "Sites",
    "teams": "Teams",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """An export. `path` is a template below the restore session, `body` the name of the schema of
    its request body, None without one.
    """

    path: str
    id: str
    body: str | None
    content: str

    @property
    def tag(self) -> str:
        """The kind of object that is exported."""
        return TAGS.get(self.path.split("/")[1].lower(), "Organization")

    @property
    def ids(self) -> list[str]:
        """The parameters of the path."""
        return re.findall(r"{(\w+)}", self.path)


def _operation(row: str) -> Operation:
    path, name, body, content = (cell.strip() for cell in row.split("|"))
    return Operation(path, name, None if body == "-" else body, content)


OPERATIONS = tuple(_operation(row) for row in _TABLE.strip().splitlines())

_SIZE = {
    "enablePstSizeLimit": flag("Whether a file above the limit becomes a ZIP of several PSTs."),
    "pstSizeLimitBytes": count("The limit in bytes, from 1 to 49 GB.", format="int64"),
}
_CHANNEL = text("The id of a channel, for all that it holds.")


def _objects(what: str) -> Object:
    return {
        "type": "array",
        "items": ref("schemas", "Object"),
        "description": f"The {what}, as VB365 lists them.",
    }


#: The request bodies, by name, for `components.schemas`. VB365 accepts further members.
BODIES: Object = {
    "Object": record(
        "An object as VB365 lists it, with all its members.", id=text("The id of the object.")
    )
    | {"additionalProperties": True},
    "PstOptions": record(
        "Options of a PST.", "", contentKeyword=text("Only items that contain this."), **_SIZE
    ),
    "PstSize": record("Options of a PST.", "", **_SIZE),
    "ItemsPstOptions": record(
        "The items, and options of the PST.", "items", items=_objects("items"), **_SIZE
    ),
    "Items": record("The items.", items=_objects("items")),
    "Documents": record("The documents.", documents=_objects("documents")),
    "Folders": record("The folders.", folders=_objects("folders")),
    "Attachments": record("The attachments.", attachments=_objects("attachments")),
    "AsZip": record("How the file is packed.", "", asZip=flag("Whether it is sent as a ZIP.")),
    "Files": record("A channel or files.", "", channelId=_CHANNEL, files=_objects("files")),
    "Posts": record("A channel or posts.", "", channelId=_CHANNEL, posts=_objects("posts")),
    "PostsOfTime": record(
        "A channel or posts, and a period.",
        "",
        channelId=_CHANNEL,
        posts=_objects("posts"),
        **{
            "from": text("Only posts since then.", format="date-time"),
            "to": text("Only posts until then.", format="date-time"),
        },
    ),
}
