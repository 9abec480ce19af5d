"""The dashboard as the server sends it: a whole page, to which scripts add what moves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from proxy.admin.pages.details import details
from proxy.admin.pages.markup import Markup, escaped, joined, tag
from proxy.admin.pages.rows import COLUMNS, address, table_rows
from proxy.admin.pages.wording import clock, duration, moment, plural, size

_DIRECTORY = Path(__file__).parent
_INDEX = Template((_DIRECTORY / "index.html").read_text(encoding="utf-8"))
_LOGIN = Template((_DIRECTORY / "login.html").read_text(encoding="utf-8"))
_SIGN_OUT = Markup(
    '<form method="post" action="/logout" id="signout">'
    '<button type="submit" class="plain">Sign out</button></form>'
)
#: The links above the table, by what they select.
_FILTERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("All", {}),
    ("Running", {"status": "Running"}),
    ("Queued", {"phase": "Queued"}),
    ("Suspended", {"phase": "Suspended"}),
    ("Failed", {"status": "Failed"}),
    ("Succeeded", {"status": "Success"}),
    ("Warning", {"status": "Warning"}),
    ("Cancelled", {"status": "Cancelled"}),
    ("Not fetched", {"delivered": "false"}),
)
_SORTS = (
    ("-created", "newest first"),
    ("created", "oldest first"),
    ("-size", "largest first"),
    ("size", "smallest first"),
    ("-duration", "slowest first"),
    ("duration", "fastest first"),
    ("status", "by state"),
    ("-status", "by state, reversed"),
)
_LIMITS = tuple((count, f"{count} a page") for count in ("20", "50", "200", "1000"))
SORT, LIMIT = "-created", "50"
_SELECTING = ("status", "phase", "delivered")
#: Parameters of the page, which are those of /api/jobs.
PARAMETERS = (*_SELECTING, "q", "sort", "limit", "offset")
#: How the state of VB365 is shown, and its class.
_REACHABLE = {True: ("Up", "good"), False: ("Down", "bad"), None: ("Not known yet", "quiet")}
_MARKS = {"good": "✓", "warning": "!", "bad": "✗"}


def dashboard(
    status: dict[str, Any],
    jobs: dict[str, Any],
    query: Mapping[str, str],
    now: float,
    *,
    shown: tuple[dict[str, Any] | None] | None = None,
    guarded: bool = False,
) -> str:
    """Return the page. `jobs` is what the query selects; `shown` holds the job to show in detail,
    None if there is no such job. `guarded`: the reader has signed in.
    """
    kept = {name: query[name] for name in PARAMETERS if query.get(name)}
    opened = Markup("") if shown is None else details(shown[0], address(kept), now)
    parts = _verdict(status, now) | _figures(status, now) | _storage(status["storage"])
    parts |= _controls(kept) | _pages(jobs, kept)
    parts |= {
        "signout": _SIGN_OUT if guarded else Markup(""),
        "details": opened,
        "rows": table_rows(jobs["results"], kept, now),
    }
    return _INDEX.substitute({name: escaped(value) for name, value in parts.items()})


def login(failure: str = "") -> str:
    """Return the page that asks for the admin token. `failure` is what was wrong with the last."""
    return _LOGIN.substitute(failure=escaped(failure))


def sentence(problem: dict[str, Any], now: float) -> str:
    """Return a problem as a sentence, with its time in UTC."""
    since, reason = problem["since"], problem["reason"]
    text = str(problem["text"])
    text += f" since {clock(since, now)} UTC" if since else ""
    return text + (f": {reason}" if reason else "")


def _verdict(status: dict[str, Any], now: float) -> dict[str, object]:
    found = status["problems"]
    worst = "bad" if any(each["level"] == "error" for each in found) else "warning"
    level = worst if found else "good"
    first, *rest = [sentence(each, now) for each in found] or ["All is well"]
    jobs = status["jobs"]
    counts = [f"{jobs[name]} {name}" for name in ("running", "queued", "suspended") if jobs[name]]
    failed, waiting = (status["attention"][name] for name in ("failedLastDay", "notFetched"))
    return {
        "level": level,
        "mark": _MARKS[level],
        "headline": first,
        "problems": joined(*(tag("li", text) for text in rest)),
        "problems_hidden": "" if rest else "hidden",
        "summary": f"{', '.join(counts)}." if counts else "No export is running.",
        "failures": f"{plural(failed, 'export')} failed in the last 24 hours",
        "failures_hidden": "" if failed else "hidden",
        "unfetched": f"{plural(waiting, 'file')} not fetched yet",
        "unfetched_hidden": "" if waiting else "hidden",
    }


def _figures(status: dict[str, Any], now: float) -> dict[str, object]:
    upstream, jobs = status["upstream"], status["jobs"]
    reachable = upstream["reachable"]
    up = now - (moment(status["startedAt"]) or now)
    since = upstream.get("since")
    replicas = [
        tag("li", tag("bdi", each["id"][:24], class_="code"), f" {each['running']} running")
        for each in status["replicas"]
    ]
    return {
        "upstream_state": _REACHABLE[reachable][0],
        "upstream_class": _REACHABLE[reachable][1],
        "upstream_since": f"since {clock(since, now)}" if since and reachable is not None else "",
        "upstream_reason": "" if reachable else upstream.get("reason") or "",
        "upstream_url": upstream["url"],
        "running": _of(jobs["running"], jobs.get("maxRunning")),
        "queued": _of(jobs["queued"], jobs.get("maxQueued")),
        "suspended": jobs["suspended"],
        "version": status["version"],
        "up": duration(up),
        "started": f"since {clock(status['startedAt'], now)}",
        "replicas": joined(*replicas),
        "replicas_hidden": "" if replicas else "hidden",
    }


def _of(count: int, limit: int | None) -> str:
    return f"{count} of {limit}" if limit else str(count)


def _storage(storage: dict[str, Any]) -> dict[str, object]:
    used, promised, free = (storage[f"{name}Bytes"] for name in ("used", "promised", "free"))
    reserve = storage.get("minFreeBytes")
    total = storage["limitBytes"] or (used or 0) + (free or 0) or 1
    ends = [0.0]
    for count in (used, promised):
        ends.append(min(100.0, ends[-1] + 100 * (count or 0) / total))
    parts = [("used", ends[0], ends[1]), ("promised", ends[1], ends[2])]
    if reserve:
        parts.append(("reserve", max(0.0, 100 - 100 * reserve / total), 100.0))
    drawn = [
        tag("rect", class_=name, x=f"{start:.2f}%", width=f"{end - start:.2f}%", height="100%")
        for name, start, end in parts
    ]
    label = f"{size(used)} used, {size(promised)} promised to running exports, {size(free)} free"
    return {
        "storage_bar": joined(*drawn),
        "storage_label": "not known" if used is None else label,
        "used": size(used),
        "promised": size(promised),
        "free": size(free),
        "reserve": size(reserve),
    }


def _controls(query: dict[str, str]) -> dict[str, object]:
    """Return the links and the form that select the rows."""
    rest = {name: value for name, value in query.items() if name not in (*_SELECTING, "offset")}
    filters = [
        tag(
            "li",
            tag(
                "a",
                label,
                class_="view",
                href=address(rest | its),
                data_filter="&".join(f"{name}={value}" for name, value in its.items()),
                aria_current="true" if _selected(query) == its else None,
            ),
        )
        for label, its in _FILTERS
    ]
    kept = [
        tag("input", type="hidden", name=name, value=value)
        for name, value in _selected(query).items()
    ]
    return {
        "filters": joined(*filters),
        "kept": joined(*kept),
        "q": query.get("q", ""),
        "sorts": _options(_SORTS, query.get("sort", SORT)),
        "limits": _options(_LIMITS, query.get("limit", LIMIT)),
        "heads": joined(*(_head(label, key, query) for label, key in COLUMNS)),
    }


def _selected(query: dict[str, str]) -> dict[str, str]:
    return {name: query[name] for name in _SELECTING if name in query}


def _options(options: Any, chosen: str) -> Markup:
    return joined(
        *(tag("option", text, value=value, selected=value == chosen) for value, text in options)
    )


def _head(label: str, key: str | None, query: dict[str, str]) -> Markup:
    if key is None:
        return tag("th", label, role="columnheader", scope="col")
    sort = query.get("sort", SORT)
    mine, falling = sort.removeprefix("-") == key, sort.startswith("-")
    target = address(query, sort=key if mine and falling else f"-{key}", offset=None)
    order = ("descending" if falling else "ascending") if mine else None
    link = tag("a", label, class_="view", href=target, data_sort=key)
    return tag("th", link, role="columnheader", scope="col", aria_sort=order)


def _pages(jobs: dict[str, Any], query: dict[str, str]) -> dict[str, object]:
    offset, limit, total = jobs["offset"], jobs["limit"], jobs["total"]
    end = offset + len(jobs["results"])
    before = address(query, offset=str(max(0, offset - limit)) if offset > limit else None)
    exports = plural(total, "export")
    return {
        "range": exports
        if total <= len(jobs["results"])
        else f"{offset + 1}\N{EN DASH}{end} of {exports}",
        "previous": _step(before if offset else None),
        "next": _step(address(query, offset=str(offset + limit)) if end < total else None),
    }


def _step(target: str | None) -> Markup:
    return Markup('aria-disabled="true"' if target is None else f'href="{escaped(target)}"')
