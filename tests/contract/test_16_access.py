"""CONTRACT §16: the token, sessions of the login page, and pages of other sites."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from proxy.admin.guard import is_same_origin
from proxy.admin.sessions import Sessions, cookie_of
from tests.contract.conftest import MakeStage, Stage
from tests.support.log_lines import check_documented, logged
from tests.support.wire import Message, Peer, ask

TOKEN = "a" * 32


async def tell(stage: Any, method: str, path: str, body: bytes | None = None, **f: str) -> Message:
    fields = {name.replace("_", "-"): value for name, value in f.items()}
    return await ask(stage.running.admin_url, method, path, fields, body)


async def sign_in(stage: Any, token: str = TOKEN, **fields: str) -> Message:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    body = urlencode({"token": token}).encode()
    return await tell(stage, "POST", "/login", body, **(form | fields))


def session_of(response: Message) -> str:
    return response["Set-Cookie"].partition(";")[0]


@pytest.fixture
async def guarded(make_stage: MakeStage) -> Stage:
    return await make_stage(ADMIN__TOKEN=TOKEN)


async def test_a_session_of_the_login_page_is_as_good_as_the_token(guarded: Stage) -> None:
    with logged() as log:
        response = await sign_in(guarded)
    assert (response.status, response["Location"]) == (303, "/")
    cookie, *attributes = response["Set-Cookie"].split("; ")
    assert {each.lower() for each in attributes} >= {"httponly", "samesite=strict", "path=/"}
    assert "Secure" not in attributes
    assert TOKEN not in cookie
    check_documented(log.entries)
    assert log.named("operator.signed_in")[0]["address"] == "127.0.0.1"
    for path in ("/api/status", "/api/jobs", "/api/history", "/metrics"):
        assert (await tell(guarded, "GET", path)).status == 401
        assert (await tell(guarded, "GET", path, Cookie=f"a=b; {cookie}")).status == 200
        bearer = f"Bearer {TOKEN}"
        assert (await tell(guarded, "GET", path, Authorization=bearer)).status == 200
    assert (await tell(guarded, "GET", "/api/status", Cookie=cookie + "x")).status == 401


async def test_a_session_ends_with_sign_out_and_after_twelve_hours(guarded: Stage) -> None:
    first, second = [session_of(await sign_in(guarded)) for _ in range(2)]
    out = await tell(guarded, "POST", "/logout", b"", Cookie=first)
    assert (out.status, out["Location"]) == (303, "/login")
    assert "Max-Age=0" in out["Set-Cookie"]
    assert (await tell(guarded, "GET", "/api/status", Cookie=first)).status == 401
    assert (await tell(guarded, "GET", "/api/status", Cookie=second)).status == 200
    guarded.clock.ahead += 12 * 3600
    assert (await tell(guarded, "GET", "/api/status", Cookie=second)).status == 401


async def test_the_cookie_is_secure_where_the_browser_uses_tls(make_stage: MakeStage) -> None:
    """A server in front of the listener ends TLS."""
    stage = await make_stage(ADMIN__TOKEN=TOKEN, ADMIN__HOSTS="ops.example.com")
    response = await sign_in(stage, Host="ops.example.com", Origin="https://ops.example.com")
    assert "Secure" in response["Set-Cookie"].split("; ")


async def test_a_browser_without_a_session_gets_the_login_page(guarded: Stage) -> None:
    for path, status in (("/login", 200), ("/", 401)):
        page = await tell(guarded, "GET", path, Accept="text/html,*/*;q=0.8")
        assert page.status == status
        assert page["Content-Type"].startswith("text/html")
        assert re.search(rb'<form[^>]*method="post"[^>]*action="/login"', page.body)
        assert b'name="token"' in page.body
        assert "frame-ancestors 'none'" in page["Content-Security-Policy"]
        assert page["Referrer-Policy"] == "same-origin", "else a form's Origin is null"
    plain = await tell(guarded, "GET", "/api/status")
    assert plain["WWW-Authenticate"] == "Bearer"
    assert plain.json()["type"] == "urn:vb365-async:problem:unauthorized"


async def test_ten_wrong_tokens_a_minute_lock_the_login_page_too(guarded: Stage) -> None:
    """Both ways to guess count together, and a session that has begun goes on."""
    session = session_of(await sign_in(guarded))
    with logged() as log:
        for guess in range(5):
            assert (await sign_in(guarded, f"wrong{guess}")).status == 401
            bearer = f"Bearer x{guess}"
            assert (await tell(guarded, "GET", "/api/status", Authorization=bearer)).status == 401
        assert [entry["address"] for entry in log.named("operator.locked")] == ["127.0.0.1"]
        locked = await sign_in(guarded)
        assert locked.status == 429
        assert 0 < int(locked["Retry-After"]) <= 60
    bearer = f"Bearer {TOKEN}"
    assert (await tell(guarded, "GET", "/api/status", Authorization=bearer)).status == 429
    assert (await tell(guarded, "GET", "/api/status", Cookie=session)).status == 200
    guarded.clock.ahead += 60
    assert (await sign_in(guarded)).status == 303


async def test_guesses_at_the_same_time_count_too(guarded: Stage) -> None:
    """Of forms whose tokens arrive together, ten are compared with the token."""
    body = urlencode({"token": "wrong"}).encode()
    head = f"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    peers = [await Peer.to(guarded.running.admin_url) for _ in range(20)]
    for peer in peers:
        await peer.send(head.encode())
    await tell(guarded, "GET", "/healthz")  # all heads are read
    for peer in peers:
        await peer.send(body)
    found = sorted([(await peer.message()).status for peer in peers])
    assert found == [401] * 10 + [429] * 10
    for peer in peers:
        peer.abort()


@pytest.mark.parametrize(
    ("body", "fields", "status"),
    [
        (b"token=", {}, 401),
        (b"nothing=1", {}, 400),
        (b"token=a&token=b", {}, 400),
        (b"token=" + b"a" * 5000, {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"token=" + TOKEN.encode(), {"Origin": "https://evil.example"}, 403),
        (b"token=" + TOKEN.encode(), {"Origin": "null"}, 403),
    ],
)
async def test_a_form_that_is_none_signs_nobody_in(
    guarded: Stage, body: bytes, fields: dict[str, str], status: int
) -> None:
    response = await tell(guarded, "POST", "/login", body, **fields)
    assert response.status == status
    assert "Set-Cookie" not in response


async def test_without_a_token_there_is_nothing_to_sign_in_to(stage: Stage) -> None:
    assert (await tell(stage, "GET", "/login"))["Location"] == "/"
    assert (await sign_in(stage))["Location"] == "/"
    assert (await tell(stage, "GET", "/api/status")).status == 200


# pages of other sites

WRITES = (
    ("POST", "/api/jobs/{id}/cancel"),
    ("POST", "/api/jobs/{id}/extend"),
    ("DELETE", "/api/jobs/{id}/result"),
    ("DELETE", "/api/jobs/{id}"),
)


async def test_a_request_that_changes_something_needs_the_field(stage: Stage) -> None:
    """§16: a page of another site cannot send it. With the token it is needed too."""
    status = await stage.done()
    job = status.rpartition("/")[2]
    for method, path in WRITES:
        for fields in ({}, {"X_VB365_Admin": "0"}, {"Authorization": "Bearer x"}):
            response = await tell(stage, method, path.format(id=job), b"{}", **fields)
            assert response.status == 403, (method, path)
            assert "X-VB365-Admin: 1" in response.json()["detail"]
    assert (await stage.get(status + "/result")).status == 200


async def test_a_request_from_a_page_of_another_origin_changes_nothing(stage: Stage) -> None:
    status = await stage.done()
    job = status.rpartition("/")[2]
    own = stage.running.admin_url
    port = urlsplit(own).port
    for origin in (
        "http://evil.example",
        "null",
        "",
        own.replace("http:", "https:"),
        f"http://localhost:{port}",
        "http://127.0.0.1",
        f"{own}0",
    ):
        for method, path in WRITES:
            response = await tell(
                stage, method, path.format(id=job), b"{}", Origin=origin, X_VB365_Admin="1"
            )
            assert response.status == 403, (origin, method, path)
    response = await tell(stage, "DELETE", f"/api/jobs/{job}", b"", Origin=own, X_VB365_Admin="1")
    assert response.status == 204


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "same"),
    [
        ("http://127.0.0.1:9465", "127.0.0.1:9465", "http", True),
        ("http://LOCALHOST", "localhost:80", "http", True),
        ("http://[::1]:1", "[::1]:1", "http", True),
        ("https://ops.example.com", "ops.example.com", "http", True),
        ("https://ops.example.com", "ops.example.com:443", "http", True),
        ("https://127.0.0.1:9465", "127.0.0.1:9465", "http", False),
        ("https://localhost", "localhost", "http", False),
        ("http://ops.example.com", "ops.example.com", "https", False),
        ("http://127.0.0.1:9466", "127.0.0.1:9465", "http", False),
        ("http://127.0.0.1:9465.evil.example", "127.0.0.1:9465", "http", False),
        ("ftp://ops.example.com", "ops.example.com", "http", False),
        ("null", "null", "http", False),
        ("", "", "http", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(origin: str, host: str, scheme: str, same: bool) -> None:
    """https is the same origin for a name in admin.hosts: a server in front ends TLS."""
    assert is_same_origin(origin, host, scheme, ["Ops.example.com"]) is same


def test_sessions_are_bounded_and_random() -> None:
    sessions = Sessions(lambda: 0.0)
    values = [sessions.begin() for _ in range(1001)]
    assert len(set(values)) == 1001
    assert min(map(len, values)) >= 43
    assert not sessions.valid(values[0])
    assert sessions.valid(values[-1])
    assert not sessions.valid(None)
    assert values[-1].encode() not in b"".join(sessions._ends), "only hashes are kept"


def test_a_malformed_cookie_is_no_session() -> None:
    assert cookie_of(["\x00;=,", "a=b", "vb365_async_proxy_admin"]) is None
    assert cookie_of(["x=1", "b=2; vb365_async_proxy_admin=v"]) == "v"


@pytest.mark.parametrize(
    "head",
    [
        f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization Bearer {TOKEN}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \x00{TOKEN}\r\n\r\n",
        f"GET /?{TOKEN}\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        (
            "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            "Content-Encoding: gzip\r\n\r\ntoken=abc"
        ),
    ],
)
async def test_a_malformed_request_is_refused_and_not_logged(guarded: Stage, head: str) -> None:
    """It may have the token, and strangers could fill the log with them."""
    with logged() as log:
        peer = await Peer.to(guarded.running.admin_url or "")
        await peer.send(head.encode())
        assert (await peer.head()).split()[1] == b"400"
        await peer.close()
    assert log.entries == []


async def test_a_client_that_leaves_within_its_form_is_no_failure(guarded: Stage) -> None:
    """Strangers could fill the log with tracebacks."""
    head = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    with logged() as log:
        peer = await Peer.to(guarded.running.admin_url or "")
        await peer.send(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert (await peer.head()).split()[1] == b"100"  # its form is waited for
        peer.reset()
        assert (await tell(guarded, "GET", "/healthz")).status == 200
    assert log.entries == []


@pytest.mark.parametrize(
    "other", ['prefs={"a":1}', "a b", "flag", 'q="open', "path=/", "httponly", "=x", "u=\xe9"]
)
def test_cookies_of_other_servers_of_the_host_end_no_session(other: str) -> None:
    """Cookies have no port: a browser sends those of all servers at 127.0.0.1."""
    assert cookie_of([f"{other}; vb365_async_proxy_admin=v; {other}"]) == "v"
