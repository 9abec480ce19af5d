"""The objects to browse: organizations, and the mailboxes, OneDrives, sites and teams in them.

An object is a function of its path and its number in the collection, so nothing is stored and
every run has the same ids. The ids are like those of VB365: UUIDs, numbers, and strings that
contain `/`, `+`, `=`, `:` and `,`.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from proxy.simulator.operations import ResourcePath

_NAMESPACE = uuid.UUID("36500000-0000-4000-8000-000000000365")
_TIME = "2026-01-15T09:30:00.1234567+02:00"

Document = dict[str, Any]

#: The names of mailboxes by number; others are user5, user6, …. Carol also has an archive, which
#: has her name and address.
_ARCHIVE = 4
_MAILBOXES = {1: "alice", 2: "bob", 3: "carol", _ARCHIVE: "carol"}


# Each of these makes an id from a key: the object's path, "#", and its index in the collection.


def _uuid(key: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, key))


def _entry_id(key: str) -> str:
    """Return an id like an Exchange entry id: standard base64, with `/`, `+` and `=`."""
    digest = hashlib.sha256(key.encode()).digest()
    return base64.b64encode(b"\xfb\xef\xff" + digest[:25]).decode()


def _number(key: str) -> str:
    return str(int(key.rpartition("#")[2]) + 1)


def _site_id(key: str) -> str:
    return f"contoso.sharepoint.com,{_uuid(key)},{_uuid(key + '/web')}"


def _channel_id(key: str) -> str:
    return f"19:{hashlib.sha256(key.encode()).hexdigest()[:32]}@thread.tacv2"


_IDS: dict[str, Callable[[str], str]] = {
    "sites": _site_id,
    "channels": _channel_id,
    "posts": _number,
    "versions": _number,
    "items": _entry_id,
}


@lru_cache(maxsize=4096)
def ids(
    organization: str, collections: tuple[str, ...], parents: tuple[str, ...], count: int
) -> tuple[str, ...]:
    """Return the ids of the `count` members of the last collection.

    `parents` are the ids of the objects that contain it.
    """
    make_id = _IDS.get(collections[-1], _uuid)
    if collections == ("mailboxes", "folders"):
        make_id = _entry_id
    path = "/".join((organization, *collections, *parents))
    return tuple(make_id(f"{path}#{index}") for index in range(count))


def exists(organization: str, path: ResourcePath, count: int) -> bool:
    """Return whether each id of the path is a member of its collection."""
    return all(
        member in ids(organization, path.collections[: depth + 1], path.ids[:depth], count)
        for depth, member in enumerate(path.ids)
    )


# Each of these returns the document of an object, without links: its id, its number from 1, and the
# ids of the objects that contain it.


def _file(id: str, name: str) -> Document:
    return {
        "id": id,
        "name": name,
        "createdBy": "Alex Wilber",
        "creationTime": _TIME,
        "modifiedBy": "Alex Wilber",
        "modificationTime": _TIME,
        "version": "1.0",
        "versionId": 1,
    }


def _mailbox(id: str, number: int, parents: tuple[str, ...]) -> Document:
    name = _MAILBOXES.get(number, f"user{number}")
    flags = {"isArchive": number == _ARCHIVE, "isPublic": False}
    return {"id": id, "name": name, "email": name, **flags}


def _exchange_folder(id: str, number: int, parents: tuple[str, ...]) -> Document:
    kind = {"type": "None", "category": "Inbox"}
    return {"id": id, "name": f"Folder {number}", **kind, "mailboxId": parents[0]}


def _exchange_item(id: str, number: int, parents: tuple[str, ...]) -> Document:
    facts = {"itemClass": "IPM.Note", "sent": _TIME, "received": _TIME}
    return {"id": id, "mailboxId": parents[0], "subject": f"Mail {number}", **facts}


def _drive(id: str, number: int, parents: tuple[str, ...]) -> Document:
    name = f"user{number}"
    return {"id": id, "name": name, "url": f"https://contoso-my.sharepoint.com/personal/{name}"}


def _drive_document(id: str, number: int, parents: tuple[str, ...]) -> Document:
    document = {**_file(id, f"Document {number}.txt"), "oneDriveId": parents[0]}
    return {**document, "sizeBytes": 1024, "isFolder": False}


def _drive_folder(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {**_file(id, f"Folder {number}"), "oneDriveId": parents[0], "isFolder": True}


def _site(id: str, number: int, parents: tuple[str, ...]) -> Document:
    url = f"https://contoso.sharepoint.com/sites/site{number}"
    return {"id": id, "name": f"Site {number}", "url": url}


def _site_document(id: str, number: int, parents: tuple[str, ...]) -> Document:
    document = {**_file(id, f"Document {number}.txt"), "siteId": parents[0]}
    return {**document, "sizeBytes": 1024, "isFolder": False}


def _site_folder(id: str, number: int, parents: tuple[str, ...]) -> Document:
    folder = {**_file(id, f"Folder {number}"), "siteId": parents[0]}
    return {**folder, "type": "LibraryFolder", "isFolder": True}


def _site_item(id: str, number: int, parents: tuple[str, ...]) -> Document:
    item = {**_file(id, f"Item {number}"), "title": f"Item {number}", "siteId": parents[0]}
    return {**item, "isFolder": False}


def _library(id: str, number: int, parents: tuple[str, ...]) -> Document:
    url = f"https://contoso.sharepoint.com/sites/site/library{number}"
    library = {"id": id, "name": f"Library {number}", "url": url}
    return {**library, "creationTime": _TIME, "siteId": parents[0]}


def _attachment(id: str, number: int, parents: tuple[str, ...]) -> Document:
    name = f"attachment{number}.txt"
    return {"id": id, "name": name, "sizeBytes": 1024, "siteId": parents[0], "itemId": parents[1]}


def _team(id: str, number: int, parents: tuple[str, ...]) -> Document:
    name = f"Team {number}"
    facts = {"privacy": "Public", "isArchived": False}
    return {"id": id, "displayName": name, "description": name, **facts}


def _channel(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {"id": id, "displayName": f"Channel {number}", "teamId": parents[0]}


def _team_file(id: str, number: int, parents: tuple[str, ...]) -> Document:
    channel = parents[1] if len(parents) > 1 else _channel_id(parents[0])
    parent = {"teamId": parents[0], "channelId": channel}
    modified = {"version": 1, "modified": _TIME, "modifiedBy": "Alex Wilber"}
    facts = {"name": f"File {number}.txt", "sizeBytes": 1024, "fileType": "File"}
    return {"id": id, **parent, **facts, **modified}


def _post(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {
        "postId": int(id) if id.isdigit() else 0,
        "changeKey": _uuid(id),
        "teamId": parents[0],
        "attachments": [],
        "createdTime": _TIME,
        "lastModifiedTime": _TIME,
        "author": "Alex Wilber",
        "subject": f"Post {number}",
        "isImportant": False,
        "isDeleted": False,
    }


_DESCRIBE: dict[tuple[str, ...], Callable[[str, int, tuple[str, ...]], Document]] = {
    ("mailboxes",): _mailbox,
    ("mailboxes", "folders"): _exchange_folder,
    ("mailboxes", "items"): _exchange_item,
    ("onedrives",): _drive,
    ("onedrives", "documents"): _drive_document,
    ("onedrives", "folders"): _drive_folder,
    ("sites",): _site,
    ("sites", "documents"): _site_document,
    ("sites", "folders"): _site_folder,
    ("sites", "items"): _site_item,
    ("sites", "libraries"): _library,
    ("sites", "lists"): _library,
    ("sites", "items", "attachments"): _attachment,
    ("teams",): _team,
    ("teams", "channels"): _channel,
    ("teams", "channels", "files"): _team_file,
    ("teams", "files"): _team_file,
    ("teams", "posts"): _post,
}


def describe(organization: str, path: ResourcePath, count: int) -> Document:
    """Return the document of an object, without links.

    An object that does not exist is described as the first of its collection. A version of an
    object is described as the object with that version number.
    """
    is_version = path.collections[-1] == "versions"
    collections = path.collections[:-1] if is_version else path.collections
    siblings = ids(organization, path.collections, path.parents, count)
    number = siblings.index(path.ids[-1]) + 1 if path.ids[-1] in siblings else 1
    *parents, own = path.ids[: len(collections)]
    document = _DESCRIBE[collections](own, number, tuple(parents))
    if collections == ("mailboxes",):
        document["email"] += f"@{organization}.com"
    if is_version:
        document |= {"version": f"{number}.0", "versionId": number}
    return document


def organization(tenant: str) -> Document:
    """Return the document of a tenant's organization, without links."""
    name = f"{tenant}.onmicrosoft.com"
    return {
        "id": _uuid(tenant),
        "name": name,
        "officeName": name,
        "description": "",
        "type": "Office365",
        "region": "Worldwide",
        "isExchangeOnline": True,
        "isSharePointOnline": True,
        "isTeamsOnline": True,
        "isBackedup": True,
        "firstBackuptime": _TIME,
        "lastBackuptime": _TIME,
    }


def fill(template: str, tenant: str, count: int) -> str:
    """Replace each placeholder of an operation's template with an existing id, percent-encoded."""
    filled: list[str] = []
    collections: list[str] = []
    parents: list[str] = []
    for segment in template.split("/"):
        if segment.startswith("{"):
            member = ids(tenant, tuple(collections), tuple(parents), count)[0]
            parents.append(member)
            filled.append(quote(member, safe=""))
        else:
            filled.append(segment)
            collections += [segment.lower()] if segment.lower() != "organization" else []
    return "/".join(filled)
