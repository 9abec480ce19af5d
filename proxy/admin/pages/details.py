"""One export in detail, for the page without scripts (static/details.js shows the same)."""

from __future__ import annotations

import json
from typing import Any

from proxy.admin.pages.markup import Markup, tag
from proxy.admin.pages.rows import badge, bar, code, expires, pace, taken
from proxy.admin.pages.wording import clock, duration, fetched, size, subject

_EVENTS = {
    "accepted": "Accepted",
    "queued": "Queued",
    "claimed": "Started",
    "requested": "Requested from VB365",
    "firstByte": "First byte",
    "formatKnown": "Format known",
    "interrupted": "Interrupted",
    "resumed": "Resumed",
    "finished": "Ended",
    "delivered": "Fetched",
    "expired": "File expired",
    "deleted": "Deleted",
}


def details(row: dict[str, Any] | None, back: str, now: float) -> Markup:
    """Return the section that shows a job; None: there is no such job."""
    if row is None:
        return tag(
            "section",
            tag("p", "There is no such export. It may have been deleted, or its record is over."),
            id="plain-details",
            class_="details",
        )
    verb, kind, identifier = subject(row)
    return tag(
        "section",
        tag("h2", f"{verb} {kind} ", None if identifier is None else code(identifier)),
        tag("div", badge(row), class_="badges"),
        tag("p", row["message"], class_="sentence", dir="auto"),
        bar(row),
        tag("p", pace(row), class_="pace"),
        *_failure(row["error"]),
        tag("h3", "Time line"),
        _timeline(row, now),
        tag("h3", "Facts"),
        _facts(row, now),
        tag("p", tag("a", "Close", href=back)),
        id="plain-details",
        class_="details",
        aria_label="Export",
    )


def _failure(error: dict[str, Any] | None) -> list[Markup]:
    if error is None:
        return []
    again = "may help" if error["retryable"] else "does not help until the cause is gone"
    found = [tag("p", tag("code", error["code"]), f" · trying again {again}", class_="why")]
    if (upstream := error["upstream"]) is not None:
        body = upstream["body"]
        text = body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False)
        shortened = ", shortened" if upstream["truncated"] else ""
        found += [
            tag("p", f"VB365's response: {upstream['status']}{shortened}"),
            tag("pre", text, dir="auto", tabindex="0"),
        ]
    return found


def _timeline(row: dict[str, Any], now: float) -> Markup:
    items = [
        tag(
            "li",
            tag("time", clock(each["at"], now), datetime=each["at"]),
            tag("span", _EVENTS.get(each["event"], each["event"]), class_="event"),
            tag("span", each["detail"], class_="detail", dir="auto") if each["detail"] else None,
            class_=each["event"],
        )
        for each in row["timeline"]
    ]
    return tag("ol", *items, class_="timeline") if items else tag("p", "Nothing is recorded.")


def _facts(row: dict[str, Any], now: float) -> Markup:
    request, result, delivered = row["request"], row["result"] or {}, row["delivered"]
    last = f", last {clock(delivered['lastAt'], now)}" if delivered["lastAt"] else ""
    delivery = f"{fetched(row)[0]}, {size(delivered['bytes'])} in all{last}"
    joined = f"; joined {row['joined']} times" if row["joined"] else ""
    rescue = f"Synchronous request, rescued{joined}" if row["origin"] == "Rescue" else None
    media = f"{result['format'] or 'not known yet'}, {result['mediaType']}" if result else None
    end = expires(row)
    facts: list[tuple[str, object]] = [
        ("Job", code(row["id"])),
        ("Request", code(f"{request['method']} {request['path']}")),
        ("Restore session", request["restoreSessionId"]),
        ("Caller", code(row["owner"])),
        ("Client", row.get("client")),
        ("Origin", rescue),
        ("Replica", row["replica"]),
        ("Attempt", row["attempt"]),
        ("Age" if row["status"] == "Running" else "Took", duration(taken(row, now))),
        ("File", result.get("fileName")),
        ("Size", size(result["size"]) if result else None),
        ("Type", media),
        ("SHA-256", result.get("sha256")),
        ("Delivery", delivery if result else None),
        ("File expires", None if end is None else f"{clock(end, now)} UTC"),
    ]
    pairs = [part for name, value in facts if value for part in (tag("dt", name), tag("dd", value))]
    return tag("dl", *pairs, class_="facts")
