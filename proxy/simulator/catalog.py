"""What can be browsed: organisations and the mailboxes, OneDrives, sites and teams below them.

Every object is a pure function of its place and number, so nothing is stored and each run has the same ids.
Ids look as they do in the wild: UUIDs, numbers, and free strings that hold `/`, `+`, `=`, `:` and `,`.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from proxy.simulator.operations import Place

_SPACE = uuid.UUID("36500000-0000-4000-8000-000000000365")
_TIME = "2026-01-15T09:30:00.1234567+02:00"

Document = dict[str, Any]


def _uuid(place: str) -> str:
    return str(uuid.uuid5(_SPACE, place))


def _entry_id(place: str) -> str:
    """Like an Exchange entry id: base64 of the ordinary alphabet, so with `/`, `+` and `=` in it."""
    return base64.b64encode(b"\xfb\xef\xff" + hashlib.sha256(place.encode()).digest()[:25]).decode()


def _number(place: str) -> str:
    return str(int(place.rpartition("#")[2]) + 1)


def _site_id(place: str) -> str:
    return f"contoso.sharepoint.com,{_uuid(place)},{_uuid(place + '/web')}"


def _channel_id(place: str) -> str:
    return f"19:{hashlib.sha256(place.encode()).hexdigest()[:32]}@thread.tacv2"


_IDS: dict[str, Callable[[str], str]] = {
    "sites": _site_id,
    "channels": _channel_id,
    "posts": _number,
    "versions": _number,
    "items": _entry_id,
}


@lru_cache(maxsize=4096)
def ids(organization: str, collections: tuple[str, ...], parents: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The ids of the last collection's members below these parents."""
    form = _IDS.get(collections[-1], _uuid)
    if collections == ("mailboxes", "folders"):
        form = _entry_id
    place = "/".join((organization, *collections, *parents))
    return tuple(form(f"{place}#{number}") for number in range(count))


def exists(organization: str, place: Place, count: int) -> bool:
    """True if every id of the place is a member of its collection."""
    return all(
        member in ids(organization, place.collections[: depth + 1], place.ids[:depth], count)
        for depth, member in enumerate(place.ids)
    )


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
    name = f"user{number}"
    return {"id": id, "name": name, "email": f"{name}@contoso.example", "isArchive": False, "isPublic": False}


def _exchange_folder(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {"id": id, "name": f"Folder {number}", "type": "None", "category": "Inbox", "mailboxId": parents[0]}


def _exchange_item(id: str, number: int, parents: tuple[str, ...]) -> Document:
    times = {"sent": _TIME, "received": _TIME}
    return {"id": id, "mailboxId": parents[0], "subject": f"Mail {number}", "itemClass": "IPM.Note", **times}


def _drive(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {"id": id, "name": f"user{number}", "url": f"https://contoso-my.sharepoint.com/personal/user{number}"}


def _drive_document(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {**_file(id, f"Document {number}.txt"), "oneDriveId": parents[0], "sizeBytes": 1024, "isFolder": False}


def _drive_folder(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {**_file(id, f"Folder {number}"), "oneDriveId": parents[0], "isFolder": True}


def _site(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {"id": id, "name": f"Site {number}", "url": f"https://contoso.sharepoint.com/sites/site{number}"}


def _site_document(id: str, number: int, parents: tuple[str, ...]) -> Document:
    document = {**_file(id, f"Document {number}.txt"), "siteId": parents[0]}
    return {**document, "sizeBytes": 1024, "isFolder": False}


def _site_folder(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {**_file(id, f"Folder {number}"), "siteId": parents[0], "type": "LibraryFolder", "isFolder": True}


def _site_item(id: str, number: int, parents: tuple[str, ...]) -> Document:
    item = {**_file(id, f"Item {number}"), "title": f"Item {number}", "siteId": parents[0]}
    return {**item, "isFolder": False}


def _library(id: str, number: int, parents: tuple[str, ...]) -> Document:
    url = f"https://contoso.sharepoint.com/sites/site/library{number}"
    return {"id": id, "name": f"Library {number}", "url": url, "creationTime": _TIME, "siteId": parents[0]}


def _attachment(id: str, number: int, parents: tuple[str, ...]) -> Document:
    name = f"attachment{number}.txt"
    return {"id": id, "name": name, "sizeBytes": 1024, "siteId": parents[0], "itemId": parents[1]}


def _team(id: str, number: int, parents: tuple[str, ...]) -> Document:
    name = f"Team {number}"
    return {"id": id, "displayName": name, "description": name, "privacy": "Public", "isArchived": False}


def _channel(id: str, number: int, parents: tuple[str, ...]) -> Document:
    return {"id": id, "displayName": f"Channel {number}", "teamId": parents[0]}


def _team_file(id: str, number: int, parents: tuple[str, ...]) -> Document:
    channel = parents[1] if len(parents) > 1 else _channel_id(parents[0])
    facts = {"sizeBytes": 1024, "version": 1, "modified": _TIME, "modifiedBy": "Alex Wilber", "fileType": "File"}
    return {"id": id, "channelId": channel, "name": f"File {number}.txt", "teamId": parents[0], **facts}


def _post(id: str, number: int, parents: tuple[str, ...]) -> Document:
    times = {"createdTime": _TIME, "lastModifiedTime": _TIME}
    who = {"author": "Alex Wilber", "subject": f"Post {number}", "isImportant": False, "isDeleted": False}
    return {
        "postId": int(id) if id.isdigit() else 0,
        "changeKey": _uuid(id),
        "teamId": parents[0],
        "attachments": [],
        **times,
        **who,
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


def describe(organization: str, place: Place, count: int) -> Document:
    """The facts of one object, without its links; of one that does not exist those of the first."""
    collections = place.collections[:-1] if place.collections[-1] == "versions" else place.collections
    siblings = ids(organization, place.collections, place.parents, count)
    number = siblings.index(place.ids[-1]) + 1 if place.ids[-1] in siblings else 1
    facts = _DESCRIBE[collections](place.ids[len(collections) - 1], number, place.ids[: len(collections) - 1])
    return facts if collections == place.collections else {**facts, "version": f"{number}.0", "versionId": number}


def organization(tenant: str) -> Document:
    """The Microsoft 365 organisation of a tenant."""
    name = f"{tenant}.onmicrosoft.com"
    kind = {"type": "Office365", "region": "Worldwide", "isExchangeOnline": True, "isSharePointOnline": True}
    backup = {"isBackedup": True, "firstBackuptime": _TIME, "lastBackuptime": _TIME, "isTeamsOnline": True}
    return {"id": _uuid(tenant), "name": name, "officeName": name, "description": "", **kind, **backup}


def fill(template: str, tenant: str, count: int) -> str:
    """The operation's template with the first existing id, percent-encoded, in each place."""
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
