"""Values as text and as HTML. static/format.js has the same rules for the page with scripts."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

#: What is shown where there is no value.
NOTHING = "\N{EN DASH}"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
#: Controls, marks that reorder text, and halves of a surrogate pair, which JSON may contain and
#: UTF-8 cannot. They are shown by their number, so that no name can look like another.
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)
_VERBS = {"exporttopst": "Export to PST", "export": "Export", "save": "Save"}
_ONE = {"mailboxes": "mailbox", "libraries": "library", "onedrives": "OneDrive"}
_PERIODS = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"))


def visible(text: Any) -> str:
    """Return text with its invisible characters shown."""
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", str(text))


def size(count: float | None) -> str:
    """Return a number of bytes in binary units."""
    if count is None:
        return NOTHING
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return (
        f"{count:.0f} {_UNITS[unit]}" if not unit or count >= 100 else f"{count:.1f} {_UNITS[unit]}"
    )


def duration(seconds: float | None) -> str:
    """Return seconds in the largest unit that fits: "36 s", "4 min", "3 d"."""
    if seconds is None:
        return NOTHING
    whole = max(0, round(seconds))
    for end, divisor, name in _PERIODS:
        if whole < end:
            return f"{whole // divisor} {name}"
    return f"{whole // 86400} d"


def moment(text: str | None) -> float | None:
    """Return the Unix seconds of an RFC 3339 time, None for none."""
    return None if text is None else datetime.fromisoformat(text).timestamp()


def clock(text: str | None, now: float) -> str:
    """Return a time in UTC, as "02:13" today and as "25 Nov 02:13" on another day."""
    if text is None:
        return NOTHING
    time, today = datetime.fromisoformat(text).astimezone(UTC), datetime.fromtimestamp(now, UTC)
    return time.strftime("%H:%M" if time.date() == today.date() else "%d %b %H:%M")


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def short(identifier: str) -> str:
    """Return a long identifier as its beginning and end."""
    text = visible(identifier)
    return text if len(text) <= 20 else f"{text[:8]}…{text[-6:]}"


def subject(row: dict[str, Any]) -> tuple[str, str, str | None]:
    """Return what a job exports: the verb, the kind of the object and its id."""
    verb = _VERBS.get(row["title"].lower(), visible(row["title"]))
    parts = [unquote(part) for part in row["request"]["path"].split("/") if part]
    names = [part.lower() for part in parts]
    if "organization" not in names:
        return verb, visible(parts[-1]) if parts else "", None
    named = parts[names.index("organization") + 1 : -1]
    if not named:
        return verb, "organization", None
    if len(named) % 2:
        return verb, visible(named[-1]), named[-2] if len(named) > 1 else None
    kind = _ONE.get(named[-2].lower(), visible(named[-2].removesuffix("s")))
    return verb, kind, named[-1]


def state(row: dict[str, Any]) -> str:
    """Return the phase of a running job, and the status of one that has ended."""
    return str(row["phase"] if row["status"] == "Running" else row["status"])


def fetched(row: dict[str, Any]) -> tuple[str, str]:
    """Return the state of a job's file as text, and the class of the text."""
    if row["status"] == "Running" or not row["result"]:
        return NOTHING, "none"
    delivered, result = row["delivered"], row["result"]
    count = delivered["count"]
    whole = delivered.get("whole") or delivered["bytes"] >= (result["size"] or 0)
    if count and not whole and result["state"] == "Available":
        return f"Fetched in part, {size(delivered['bytes'])}", "waiting"
    done = f"Fetched {count} times" if count > 1 else "Fetched"
    match row["result"]["state"]:
        case "Available":
            return (done, "fetched") if count else ("Not fetched yet", "waiting")
        case "Expired":
            return (f"{done}, expired", "none") if count else ("Expired, never fetched", "waiting")
        case "Deleted":
            return (f"{done}, deleted", "none") if count else ("Deleted", "none")
        case _:
            return NOTHING, "none"
