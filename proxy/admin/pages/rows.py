"""The exports as rows of a table (static/row.js makes the same)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from proxy.admin.pages.markup import Markup, joined, tag
from proxy.admin.pages.wording import (
    clock,
    duration,
    fetched,
    moment,
    short,
    size,
    state,
    subject,
    visible,
)

#: The columns: the heading, and the name of the order in the query if there is one.
COLUMNS = (
    ("Export", None),
    ("State", "status"),
    ("Size", "size"),
    ("Accepted", "created"),
    ("Took", "duration"),
    ("Caller", None),
    ("File", None),
)
_BARS = ("Generating", "Transferring", "Finalizing", "Cancelling")


def address(query: Mapping[str, str], **changes: str | None) -> str:
    """Return the address of the dashboard with a changed query."""
    changed: dict[str, str | None] = {**query, **changes}
    kept = {name: value for name, value in changed.items() if value}
    return "/?" + urlencode(kept) if kept else "/"


def table_rows(rows: list[dict[str, Any]], query: Mapping[str, str], now: float) -> Markup:
    """Return the rows of the table, or one that says why there is none."""
    if rows:
        return joined(*(_row(row, query, now) for row in rows))
    text: tuple[object, ...] = (
        tag("strong", "No exports yet."),
        " They appear here as soon as a client asks for one with ",
        tag("code", "Prefer: respond-async"),
        ".",
    )
    if any(query.get(name) for name in ("q", "status", "phase", "delivered")):
        link = tag("a", "Show all", class_="view", href="/")
        text = (tag("strong", "No export matches."), " ", link)
    nothing = tag("td", tag("p", *text), role="cell", colspan=len(COLUMNS))
    return tag("tr", nothing, role="row", class_="nothing")


def code(text: object, title: str | None = None, class_: str = "code") -> Markup:
    """Return an identifier, whose direction does not change that of the text around it."""
    return tag("bdi", text, class_=class_, title=title)


def badge(row: dict[str, Any]) -> Markup:
    """Return the state of a job as a coloured word."""
    return tag("span", state(row), class_=f"badge {state(row).lower()}")


def bar(row: dict[str, Any]) -> Markup | None:
    """Return the progress bar of a job that VB365 or the proxy is working on."""
    if row["status"] != "Running" or row["phase"] not in _BARS:
        return None
    percent = None if row["phase"] == "Generating" else row["progress"]["percent"]
    verb, kind, _ = subject(row)
    return tag(
        "progress",
        max=None if percent is None else 100,
        value=percent,
        aria_label=f"Progress of {verb} of {kind}",
    )


def pace(row: dict[str, Any]) -> str:
    """Return the percentage, bytes, rate and time left of a job that is transferred."""
    progress = row["progress"]
    if row["status"] != "Running" or row["phase"] != "Transferring":
        return ""
    percent, total = progress["percent"], progress["bytesTotal"]
    rate, left = progress["bytesPerSecond"], progress["secondsRemaining"]
    received = size(progress["bytesReceived"])
    parts = [
        None if percent is None else f"{percent} %",
        received if total is None else f"{received} of {size(total)}",
        f"{size(rate)}/s" if rate else None,
        None if left is None else f"{duration(left)} left",
    ]
    return " · ".join(part for part in parts if part)


def taken(row: dict[str, Any], now: float) -> float:
    """Return the seconds that a job took, or has taken so far."""
    end = moment(row["endTime"])
    return (now if end is None else end) - (moment(row["creationTime"]) or now)


def expires(row: dict[str, Any]) -> str | None:
    """Return when the file of a job is removed, None without one."""
    available = row["result"] and row["result"]["state"] == "Available"
    found = row["expirationTime"] if available else None
    return None if found is None else str(found)


def _row(row: dict[str, Any], query: Mapping[str, str], now: float) -> Markup:
    end = moment(expires(row))
    text, kind = fetched(row)
    until = None if end is None else tag("small", f"expires in {duration(end - now)}")
    file_size = (row["result"] or {}).get("size", row.get("itemSizeBytes"))
    cells = (
        _cell("State", "state", *_state(row)),
        _cell("Size", "size", size(file_size)),
        _cell("Accepted", "when", *_accepted(row, now)),
        _cell("Took", "took", duration(taken(row, now))),
        _cell("Caller", "caller", *_caller(row)),
        _cell("File", "file", tag("span", text, class_=kind), until),
    )
    return tag("tr", _what(row, query), *cells, role="row", data_state=state(row))


def _cell(label: str, name: str, *children: object) -> Markup:
    return tag("td", *children, role="cell", data_label=label, class_=name)


def _what(row: dict[str, Any], query: Mapping[str, str]) -> Markup:
    verb, kind, identifier = subject(row)
    link = tag(
        "a",
        tag("span", verb, class_="verb"),
        tag("span", " ", kind, class_="kind"),
        class_="open",
        href=address(query, job=row["id"]),
    )
    session = row["request"]["restoreSessionId"]
    below = [
        None if identifier is None else code(short(identifier), visible(identifier)),
        None
        if session is None
        else code(
            f" {'' if identifier is None else 'in '}session {short(session)}",
            f"Restore session {visible(session)}",
            "session",
        ),
    ]
    return tag("th", link, tag("small", *below), role="rowheader", scope="row", class_="what")


def _state(row: dict[str, Any]) -> tuple[object, ...]:
    again = tag("span", f"attempt {row['attempt']}", class_="tag") if row["attempt"] > 1 else None
    rescue = tag("span", "rescue", class_="tag") if row["origin"] == "Rescue" else None
    quiet = state(row) in ("Success", "Transferring")
    return (
        tag("div", badge(row), again, rescue, class_="badges"),
        bar(row),
        None if quiet else tag("p", row["message"], class_="sentence", dir="auto"),
        tag("p", pace(row), class_="pace"),
    )


def _accepted(row: dict[str, Any], now: float) -> tuple[Markup, Markup]:
    created = row["creationTime"]
    age = duration(now - (moment(created) or now))
    return tag("time", clock(created, now), datetime=created), tag("small", f"{age} ago")


def _caller(row: dict[str, Any]) -> tuple[object, ...]:
    owner, client = row["owner"], row.get("client")
    return (
        code(owner[:8], f"Hash of the caller: {owner}"),
        None if client is None else tag("small", tag("bdi", client)),
    )
