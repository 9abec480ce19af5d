"""The dashboard as the server sends it (CONTRACT §16)."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.admin.pages import wording
from proxy.admin.pages.assets import FIELDS, POLICY, Assets
from proxy.admin.pages.dashboard import dashboard, login, sentence
from proxy.admin.problems import problems
from tests.support.rows import ENDED, NOW, REFUSED, failed, row, status, succeeded

STATIC = Path(wording.__file__).parents[1] / "static"
HOSTILE = '<img src=x onerror="alert(1)">\u202etxt.exe\u2066'


class Reader(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self) -> list[str]:
        return [found.get("href") or "" for tag, found in self.tags if tag == "a"]


def page(*rows: dict[str, Any], query: dict[str, str] | None = None, **others: Any) -> Reader:
    jobs = {"offset": 0, "limit": 50, "total": len(rows), "results": list(rows)}
    found = others.pop("jobs", jobs)
    return Reader(dashboard(others.pop("status", status()), found, query or {}, NOW, **others))


def test_vendored_files_are_those_of_the_list() -> None:
    """What is listed is there, unchanged, with its licence; nothing else is there."""
    lines = (STATIC / "vendor" / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (STATIC / "vendor").iterdir()
        if path.name != "SHA256SUMS"
    }
    assert found == listed
    for name in ("pico", "uPlot"):
        assert "MIT" in next((STATIC / "vendor").glob(f"{name}.LICENSE*")).read_text()


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_no_script_makes_html_of_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function"
    assert re.findall(forbidden, text) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []


def test_the_policy_allows_nothing_but_the_page_itself() -> None:
    assert dict(each.split(" ", 1) for each in POLICY.split("; ")) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert FIELDS["X-Content-Type-Options"] == "nosniff"
    assert FIELDS["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("made", [page(failed()), Reader(login())], ids=["dashboard", "login"])
def test_a_page_has_no_script_and_no_style_of_its_own(made: Reader) -> None:
    for tag, attributes in made.tags:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("/", "#")), (tag, target)
        assert tag != "script" or attributes["src"]


def test_every_file_that_a_page_names_is_served() -> None:
    assets = Assets()
    named = [
        found.get("src") or found.get("href") or ""
        for tag, found in page().tags + Reader(login()).tags
        if tag in ("script", "link", "img")
    ]
    assert named
    assert {name.removeprefix("/static/") for name in named} <= assets._files.keys()


async def test_a_file_is_sent_once_and_not_again_while_it_is_the_same() -> None:
    assets = Assets()
    app = web.Application()

    async def ask(name: str, **fields: str) -> web.Response:
        request = make_mocked_request(
            "GET", f"/static/{name}", headers=fields, app=app, match_info={"name": name}
        )
        return await assets.serve(request)

    first = await ask("app.js")
    assert (first.status, first.content_type) == (200, "text/javascript")
    assert first.headers["Content-Security-Policy"] == POLICY
    again = await ask("app.js", **{"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, None)
    for missing in ("../pages/index.html", "vendor/SHA256SUMS", "app.py", ""):
        with pytest.raises(web.HTTPNotFound):
            await ask(missing)


def test_the_table_shows_what_runs() -> None:
    made = page(row())
    assert "All is well" in made.text
    for text in ("Export to PST mailbox", "b951", "Transferring", "0a1b2c3d"):
        assert text in made.text
    assert "30 % · 1.5 GiB of 5.0 GiB · 100 MiB/s · 36 s left" in made.text
    bars = [found for tag, found in made.tags if tag == "progress"]
    assert [(bar["value"], bar["max"]) for bar in bars] == [("30", "100")]


def test_the_table_shows_why_an_export_failed() -> None:
    """VB365's own sentence, on the page and not behind a click."""
    assert REFUSED in page(failed()).text


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (row(), "–"),
        (failed(), "–"),
        (succeeded(), "Not fetched yet"),
        (succeeded(1), "Fetched"),
        (succeeded(3), "Fetched 3 times"),
        (succeeded(delivered={"bytes": 1 << 20, "count": 1}), "Fetched in part, 1.0 MiB"),
        (succeeded(delivered={"bytes": 1, "count": 1, "whole": True}), "Fetched"),
        (succeeded(0, "Expired"), "Expired, never fetched"),
        (succeeded(1, "Expired"), "Fetched, expired"),
        (succeeded(0, "Deleted"), "Deleted"),
        (succeeded(1, "Incomplete"), "–"),
    ],
)
def test_the_table_shows_whether_a_file_was_fetched(job: dict[str, Any], text: str) -> None:
    assert wording.fetched(job)[0] == text


def test_a_job_is_shown_in_detail() -> None:
    job = failed(timeline=[{"at": ENDED, "event": "finished", "detail": "Failed"}])
    made = page(job, query={"q": "b951", "job": job["id"]}, shown=(job,))
    for text in ("UpstreamError", "trying again does not help", "VB365's response: 500", "Ended"):
        assert text in made.text
    assert "/?q=b951" in made.links(), "closing goes back to the search"
    assert "There is no such export" in page(shown=(None,)).text


@pytest.mark.parametrize("made", [{}, {"shown": True}], ids=["table", "details"])
def test_hostile_text_stays_text(made: dict[str, bool]) -> None:
    """Markup is escaped, and characters that reorder text are shown by their number."""
    job = failed(message=HOSTILE, owner=HOSTILE, replica=HOSTILE, client=HOSTILE, title=HOSTILE)
    job["request"] |= {"path": f"/x/organization/a/{HOSTILE}/save", "restoreSessionId": HOSTILE}
    job["error"]["upstream"]["body"] = HOSTILE
    shown = page(job, query={"q": HOSTILE}, **({"shown": (job,)} if made else {}))
    assert not [tag for tag, found in shown.tags if tag == "img" and found.get("src") == "x"]
    assert '<img src=x onerror="alert(1)">⟨U+202E⟩txt.exe⟨U+2066⟩' in shown.text
    assert not re.search("[\u202e\u2066]", shown.text)


def test_half_a_surrogate_pair_does_not_break_the_page() -> None:
    """JSON of VB365 may contain one, and UTF-8 cannot."""
    job = failed(message="a\ud800", client="\udfff")
    job["error"]["upstream"]["body"] = {"message": "b\udc00"}
    jobs = {"offset": 0, "limit": 50, "total": 1, "results": [job]}
    sent = dashboard(status(), jobs, {}, NOW, shown=(job,)).encode().decode()
    assert "a⟨U+D800⟩" in sent
    assert "b⟨U+DC00⟩" in sent


def test_links_keep_the_rest_of_the_query() -> None:
    query = {"q": "a&b", "status": "Failed", "sort": "-size", "limit": "2", "offset": "2"}
    jobs = {"offset": 2, "limit": 2, "total": 5, "results": [failed(), failed()]}
    made = page(query=query, jobs=jobs)
    links = made.links()
    assert "/?status=Failed&q=a%26b&sort=-size&limit=2" in links, "the page before"
    assert "/?status=Failed&q=a%26b&sort=-size&limit=2&offset=4" in links, "the next page"
    assert "/?q=a%26b&sort=-size&limit=2&phase=Queued" in links, "another filter"
    assert "/?status=Failed&q=a%26b&sort=size&limit=2" in links, "the other order"
    assert "3–4 of 5 exports" in made.text
    chosen = [found["value"] for tag, found in made.tags if tag == "option" and "selected" in found]
    assert chosen == ["-size"], "a limit that no option has is kept in the address"
    form = {found["name"]: found["value"] for tag, found in made.tags if tag == "input"}
    assert form == {"status": "Failed", "q": "a&b"}


def test_the_selects_show_the_defaults() -> None:
    options = [found for tag, found in page().tags if tag == "option"]
    assert [each["value"] for each in options if "selected" in each] == ["-created", "50"]


def test_an_empty_table_says_why() -> None:
    assert "No exports yet" in page().text
    assert "No export matches" in page(query={"q": "nothing"}).text


@pytest.mark.parametrize(
    ("title", "path", "expected"),
    [
        ("exportToPst", "organization/exportToPst", ("Export to PST", "organization", None)),
        ("save", "organization/sites/s/libraries/l/save", ("Save", "library", "l")),
        ("save", "organization/oneDrives/o/documents/save", ("Save", "documents", "o")),
        ("export", "Organization/Teams/t/posts/p%2F1/export", ("Export", "post", "p/1")),
        ("generate", "v8/Reports/generateMailbox", ("generate", "generateMailbox", None)),
    ],
)
def test_a_job_is_named_by_its_verb_and_object(
    title: str, path: str, expected: tuple[str, str, str | None]
) -> None:
    assert wording.subject(row(title=title, request={"path": f"/{path}"})) == expected


def test_problems_are_sentences_most_urgent_first() -> None:
    down = {"url": "https://v", "reachable": False, "since": ENDED, "reason": "connection refused"}
    checks = {
        "space": {"ok": False, "reason": "1 GiB free, storage.min_free is 5 GiB"},
        "jobs": {"ok": True, "reason": "The store has no persistence"},
    }
    queue = {"running": 4, "queued": 9, "suspended": 0, "maxQueued": 9}
    silent = [{"id": "b", "lastSeen": ENDED, "running": 0}]
    found = problems(status(upstream=down, checks=checks, jobs=queue, replicas=silent), NOW)
    assert [(each["level"], sentence(each, NOW)) for each in found] == [
        ("error", "VB365 is unreachable since 21:53 UTC: connection refused"),
        ("error", "Not enough free disk space: 1 GiB free, storage.min_free is 5 GiB"),
        ("warning", "The store has no persistence"),
        ("warning", "The queue is full: 9 exports are waiting, and new ones get 503"),
        ("warning", "Replica b is silent since 21:53 UTC"),
    ]
    assert problems(status(), NOW) == []


def test_vb365_is_not_said_to_be_away_before_that_is_known() -> None:
    unknown = status(upstream={"url": "https://v", "reachable": None, "since": None})
    assert problems(unknown, NOW) == []
    made = page(status=unknown)
    assert "Not known yet" in made.text
    assert "Down" not in made.text


def test_the_page_counts_the_failures_of_a_day_and_the_files_that_wait() -> None:
    busy = page(status=status(attention={"failedLastDay": 2, "notFetched": 1}))
    assert "2 exports failed in the last 24 hours" in busy.text
    assert "1 file not fetched yet" in busy.text
    for made, hidden in ((busy, False), (page(), True)):
        links = [found for _, found in made.tags if found.get("id") in ("failures", "unfetched")]
        assert ["hidden" in found for found in links] == [hidden, hidden]
        assert [found["href"] for found in links] == ["/?status=Failed", "/?delivered=false"]


def test_the_verdict_is_the_first_thing_on_the_page() -> None:
    problem = {"level": "error", "text": "VB365 is unreachable", "since": None, "reason": "no"}
    made = page(status=status(problems=[problem]))
    assert "VB365 is unreachable: no" in made.text
    assert "All is well" not in made.text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_a_duration_has_one_unit(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "–"), (1023, "1023 B"), (1 << 20, "1.0 MiB"), (1 << 38, "256 GiB")]
)
def test_a_size_is_in_binary_units(count: int | None, text: str) -> None:
    assert wording.size(count) == text
