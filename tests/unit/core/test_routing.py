"""CONTRACT §1, §2, §3, §13: the decision on a request head."""

from __future__ import annotations

import pytest

from proxy.core.http.heads import Head, parse_request
from proxy.core.routing import BadSwitch, Kickoff, Own, PassThrough, Rescue, Router

EXPORT = "/v8/RestoreSessions/s/organization/mailboxes/m/exportToPst"
ROUTER = Router(segment="_async", prefix="", max_body=1000, reports=False)
PREFIXED = Router(segment="_Jobs", prefix="/vb.365", max_body=1000, reports=True)


def head(method: str, target: str, *fields: str) -> Head:
    lines = [f"{method} {target} HTTP/1.1", "Host: h", *fields, "", ""]
    return parse_request("\r\n".join(lines).encode("latin-1"))


@pytest.mark.parametrize(
    ("target", "prefix", "api", "rest", "query"),
    [
        ("/v8/_async/exports", "/v8/_async", "v8", "/exports", None),
        ("/V7/_ASYNC/exports?x=1", "/V7/_ASYNC", "v7", "/exports", "x=1"),
        ("/_async/openapi.json?", "/_async", None, "/openapi.json", ""),
        ("//v8//_async/exports/1/result", "//v8//_async", "v8", "/exports/1/result", None),
        ("/v8/_async", "/v8/_async", "v8", "", None),
        ("http://h/v8/_async/x", "/v8/_async", "v8", "/x", None),
    ],
)
def test_all_paths_below_the_segment_are_own_paths(
    target: str, prefix: str, api: str | None, rest: str, query: str | None
) -> None:
    """§2: any version, none at all, any method."""
    for method in ("GET", "POST", "BREW"):
        assert ROUTER.decide(head(method, target)) == Own(prefix, api, rest, query)


@pytest.mark.parametrize(
    "target",
    [
        "/v8/_asyncs/exports",
        "/v8/x_async",
        "/x/_async/exports",
        "/v8/v7/_async",
        "/?_async",
        "/v8/%5fasync/x",
    ],
)
def test_other_paths_pass_through(target: str) -> None:
    """§2: the segment is compared as a whole."""
    assert ROUTER.decide(head("GET", target)) == PassThrough(target.encode())


def test_own_paths_answer_with_and_without_the_prefix() -> None:
    """§13, `public.segment`."""
    assert PREFIXED.decide(head("GET", "/vb.365/v8/_jobs/x")) == Own(
        "/vb.365/v8/_jobs", "v8", "/x", None
    )
    assert PREFIXED.decide(head("GET", "/v8/_jobs/x")) == Own("/v8/_jobs", "v8", "/x", None)
    assert PREFIXED.decide(head("GET", "/vbx365/v8/_jobs/x")) == PassThrough(b"/vbx365/v8/_jobs/x")
    assert PREFIXED.decide(head("GET", "/v8/_async/x")) == PassThrough(b"/v8/_async/x")


def test_an_asynchronous_export_is_a_kickoff() -> None:
    """§1: its target is without `async`."""
    for credentials in ("Authorization: Bearer t", "Cookie: a=b"):
        decision = ROUTER.decide(
            head("POST", EXPORT + "?async=1&x=y", "Prefer: wait=7", credentials)
        )
        assert isinstance(decision, Kickoff)
        assert decision.target == EXPORT.encode() + b"?x=y"
        assert decision.preferences.wait == 7
        assert (decision.export.api, decision.export.session, decision.export.title) == (
            "v8",
            "s",
            "exportToPst",
        )


def test_a_synchronous_export_passes_through_without_async() -> None:
    """§1."""
    assert ROUTER.decide(head("POST", EXPORT, "Cookie: a=b")) == PassThrough(EXPORT.encode())
    response = ROUTER.decide(
        head("POST", EXPORT + "?async=no&x", "Cookie: a=b", "Prefer: respond-async")
    )
    assert response == PassThrough(EXPORT.encode() + b"?x")


def test_an_invalid_async_parameter_is_rejected() -> None:
    """§1: 400, whatever else the request says."""
    assert isinstance(ROUTER.decide(head("POST", EXPORT + "?async=perhaps")), BadSwitch)


def test_only_export_posts_are_inspected() -> None:
    """§1: every other request passes through unchanged."""
    for method, target in (("GET", EXPORT + "?async=1"), ("POST", "/v8/token?async=perhaps")):
        assert ROUTER.decide(head(method, target, "Cookie: a=b")) == PassThrough(target.encode())


def test_a_kickoff_without_credentials_passes_through() -> None:
    """§3.2: VB365 answers 401. §3.1 comes first: the proxy rejects an announced body that is too
    large.
    """
    assert ROUTER.decide(head("POST", EXPORT + "?async")) == PassThrough(EXPORT.encode())
    assert ROUTER.decide(head("POST", EXPORT + "?async", "Content-Length: 1000")) == PassThrough(
        EXPORT.encode()
    )
    assert isinstance(
        ROUTER.decide(head("POST", EXPORT + "?async", "Content-Length: 1001")), Kickoff
    )


def test_reports_are_exports_if_enabled() -> None:
    """§1 `exports.reports`."""
    report = head("POST", "/v8/Reports/GenerateX?async", "Cookie: a=b")
    assert isinstance(PREFIXED.decide(report), Kickoff)
    assert ROUTER.decide(report) == PassThrough(b"/v8/Reports/GenerateX?async")


# exports that nobody asked to be asynchronous (§14)


@pytest.mark.parametrize(
    ("target", "fields", "rescued"),
    [
        (EXPORT, ("Authorization: x",), True),
        (EXPORT, ("Cookie: x",), True),
        (f"{EXPORT}?x=1", ("Authorization: x", "Content-Length: 100"), True),
        (EXPORT, ("Authorization: x", "Prefer: wait=x"), True),
        (EXPORT, ("Authorization: x", "Transfer-Encoding: chunked"), True),
        (EXPORT, (), False),
        (EXPORT, ("Authorization: x", "Content-Length: 101"), False),
        (EXPORT, ("Authorization: x", "Prefer: wait=5"), False),
        (EXPORT, ("Authorization: Negotiate x",), False),
        (f"{EXPORT}?async=false", ("Authorization: x",), False),
        ("/v8/RestoreSessions/s/restore", ("Authorization: x",), False),
    ],
)
def test_14_which_requests_are_rescued(target: str, fields: tuple[str, ...], rescued: bool) -> None:
    """§14: with the switch on, exports with credentials that did not opt out."""
    request = head("POST", target, *fields)
    router = Router(segment="_async", prefix="", max_body=100, reports=False, rescue=True)
    assert isinstance(router.decide(request), Rescue) == rescued
    off = Router(segment="_async", prefix="", max_body=100, reports=False)
    assert isinstance(off.decide(request), PassThrough)
