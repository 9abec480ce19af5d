"""What can be exported: mailboxes, OneDrives, SharePoint sites and Teams, as VB365 names them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.client.errors import CommandError
from proxy.core.text import visible

#: Candidates that an error names.
_MAX_CANDIDATES = 5
_MAX_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: its `path` below a restore session of type `session`, the members of its
    documents that people know it by, and that which has its id. `noun` and `plural` are words of
    the command line.
    """

    noun: str
    plural: str
    session: str
    path: str
    names: tuple[str, ...] = ("name",)
    addresses: tuple[str, ...] = ()
    key: str = "id"


MAILBOX = Kind("mailbox", "mailboxes", "Vex", "organization/mailboxes", addresses=("email",))
ONEDRIVE = Kind("onedrive", "onedrives", "Veod", "Organization/OneDrives", addresses=("url",))
SITE = Kind("site", "sites", "Vesp", "Organization/Sites", addresses=("url",))
TEAM = Kind("team", "teams", "Vet", "organization/teams", ("displayName",), ("groupEmail", "alias"))
KINDS = (MAILBOX, ONEDRIVE, SITE, TEAM)
FOLDER = Kind("folder", "folders", "Vex", "folders")
LIBRARY = Kind("library", "libraries", "Vesp", "Libraries", addresses=("url",))
#: What is in them. A session has one type, whose objects all have the same items.
MAIL = Kind("item", "items", "Vex", "items", ("subject",))
DOCUMENT = Kind("item", "items", "", "Documents")
DOCUMENT_FOLDER = Kind("folder", "folders", "", "Folders")
FILE = Kind("item", "items", "Vet", "files")
POST = Kind("item", "items", "Vet", "posts", ("subject",), key="postId")
CHANNEL = Kind("channel", "channels", "Vet", "channels", ("displayName",))


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of VB365. `note` tells apart objects with the same name, for example an archive."""

    id: str
    name: str
    address: str
    note: str
    document: dict[str, Any]

    def __str__(self) -> str:
        words = [self.name, f"<{self.address}>" if self.address else "", self.note, self.id]
        return shown(" ".join(word for word in words if word))

    @property
    def known_as(self) -> set[str]:
        """What the user may call it, in lower case."""
        return {each.casefold() for each in (self.id, self.name, self.address) if each}


def entry(kind: Kind, document: Any) -> Entry:
    """Return the object in a document of VB365. Raises `CommandError` if it has no id."""
    if not isinstance(document, dict) or not isinstance(document.get(kind.key), str | int):
        raise CommandError(f"VB365 sent a {kind.noun} without an id")
    notes = [
        word
        for member, word in (("isArchive", "(archive)"), ("isPublic", "(public folders)"))
        if document.get(member) is True
    ]
    return Entry(
        str(document[kind.key]),
        _text(document, kind.names),
        _text(document, kind.addresses),
        " ".join(notes),
        document,
    )


def pick(kind: Kind, entries: Sequence[Entry], name: str, where: str) -> Entry:
    """Return the object with this id, name or address, in any case.

    An id or an address goes before a name, and a mailbox before its archive. Raises `CommandError`,
    which names the candidates, if none or several match.
    """
    wanted = name.casefold()
    found = [each for each in entries if each.id.casefold() == wanted]
    found = found or [each for each in entries if each.address.casefold() == wanted]
    found = found or [each for each in entries if each.name.casefold() == wanted]
    found = [each for each in found if not each.note] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(
            f"{len(found)} {kind.plural} in {where} match {name!r}. Use the id, the last word:\n"
            + "\n".join(f"  {each}" for each in found[:_MAX_CANDIDATES]),
            code=2,
        )
    candidates = _similar(entries, wanted)
    hint = "Similar:\n" + "\n".join(f"  {each}" for each in candidates) if candidates else ""
    raise CommandError(
        f"There is no {kind.noun} {name!r} among the {len(entries)} {kind.plural} in {where}. "
        f"{hint}".rstrip(),
        code=2,
    )


def matching(entries: Sequence[Entry], text: str | None) -> list[Entry]:
    """Return the objects whose id, name or address contains the text, in any case."""
    wanted = (text or "").casefold()
    return [each for each in entries if any(wanted in known for known in each.known_as)]


def shown(text: str) -> str:
    """Text of VB365 for a terminal: no control characters, and not too long."""
    text = visible(text)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _similar(entries: Sequence[Entry], wanted: str) -> list[Entry]:
    containing = [each for each in entries if any(wanted in known for known in each.known_as)]
    if containing:
        return containing[:_MAX_CANDIDATES]
    known = {known for each in entries for known in each.known_as - {each.id.casefold()}}
    close = difflib.get_close_matches(wanted, known, _MAX_CANDIDATES)
    owners = {each.id: each for name in close for each in entries if name in each.known_as}
    return list(owners.values())[:_MAX_CANDIDATES]


def _text(document: dict[str, Any], members: Sequence[str]) -> str:
    found = (document.get(member) for member in members)
    return next((value for value in found if isinstance(value, str) and value), "")
