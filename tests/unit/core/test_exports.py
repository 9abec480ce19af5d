"""CONTRACT §1: which requests are exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.exports import Export, match, split_target

OPERATIONS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data/operations.json").read_text()
)
EXPORTS = [operation for operation in OPERATIONS if operation["export"]]
SAVE = b"/v8/RestoreSessions/5f0c/organization/mailboxes/m/items/save"


def _concrete(template: str) -> bytes:
    """The template with ids like those of VB365: strings with `%2F`, `+`, `=`, `:`."""
    return re.sub(r"\{(\w+)\}", r"\1%2F+x=:~", template).encode()


def _label(operation: dict[str, Any]) -> str:
    return f"{operation['method']} {operation['path']}"


def test_there_are_29_export_operations_in_each_api_version() -> None:
    """§1: the rule selects exactly the 29 export operations of each of API v6, v7, v8."""
    counts = {
        version: sum(o["version"] == version for o in EXPORTS) for version in ("v6", "v7", "v8")
    }
    assert counts == {"v6": 29, "v7": 29, "v8": 29}


@pytest.mark.parametrize("operation", EXPORTS, ids=_label)
def test_every_export_operation_is_matched(operation: dict[str, Any]) -> None:
    """§1, whatever the case of the path, and with a trailing slash."""
    path = _concrete(operation["path"])
    found = match(operation["method"].encode(), path)
    assert found is not None
    assert (found.api, found.session) == (operation["version"], "restoreSessionId%2F+x=:~")
    assert f"{found.parent}/{found.title}".encode() == path
    assert found.kind == ("Save" if path.lower().endswith(b"/save") else "Export")
    for variant in (path.lower(), path.upper(), path + b"/", path + b"?x=/y", path + b"?"):
        assert match(b"POST", variant) is not None


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if not o["export"]], ids=_label)
def test_every_other_operation_is_not_matched(operation: dict[str, Any]) -> None:
    """§1: neither are reports by default, nor the Action endpoints of v1 to v5."""
    assert match(operation["method"].encode(), _concrete(operation["path"])) is None


@pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS if "/Reports/" in o["path"]], ids=_label
)
def test_reports_are_matched_if_enabled_without_session_and_parent(
    operation: dict[str, Any],
) -> None:
    """§1 `exports.reports = true`."""
    path = operation["path"].encode()
    title = operation["path"].rpartition("/")[2]
    assert match(b"POST", path, reports=True) == Export(
        operation["version"], None, None, title, "Export"
    )
    assert match(b"POST", path + b"/", reports=True) is not None
    assert match(b"GET", path, reports=True) is None


def test_enabling_reports_matches_only_reports() -> None:
    for operation in OPERATIONS:
        if "/Reports/" not in operation["path"]:
            request = operation["method"].encode(), _concrete(operation["path"])
            assert match(*request, reports=True) == match(*request)


@pytest.mark.parametrize(
    "method", [b"GET", b"PUT", b"HEAD", b"OPTIONS", b"post", b"Post", b"POSTS", b""]
)
def test_only_the_exact_method_post_is_matched(method: bytes) -> None:
    """§1: method = POST; methods are case-sensitive (RFC 9110 §9.1)."""
    assert match(method, SAVE) is None


@pytest.mark.parametrize(
    "target",
    [
        b"//v8/RestoreSessions/s/organization/save",
        b"/v8//RestoreSessions/s/organization/save",
        b"/v8/RestoreSessions//organization/save",
        b"/v8/RestoreSessions/s/organization//save",
        b"/v8/RestoreSessions/s/organization/x//save",
        b"/v8/RestoreSessions/s/organization/save//",
        b"/v8/RestoreSessions/s/organization/./save",
        b"/v8/RestoreSessions/s/organization/../save",
        b"/v8/RestoreSessions/../organization/x/save",
        b"/v8/RestoreSessions/./organization/x/save",
        b"/v8/RestoreSessions/s/organization/%2e/save",
        b"/v8/RestoreSessions/s/organization/%2E%2e/save",
        b"/v8/RestoreSessions/s/organization/.%2e/save",
        b"/v8/RestoreSessions/%2e./organization/save/",
        b"/v8/RestoreSessions/s/organization/save/..",
        b"/v8/RestoreSessions/s/organization/save/%2e",
        b"/v8/RestoreSessions/s/organization/..%2f..%2Ft/organization/save",
        b"/v8/RestoreSessions/s%2F..%2ft/organization/save",
        b"/v8/RestoreSessions/..%2Ft/organization/save",
        b"/v8/RestoreSessions/s%5C%2e./organization/save",
        b"/v8/RestoreSessions/s%5c.%5Ct/organization/save",
        b"/v8/RestoreSessions/s\\..\\t/organization/save",
    ],
)
def test_empty_and_dot_segments_are_never_exports(target: bytes) -> None:
    """§1: no empty or dot segment (`.`, `..`, also written with `%2e`), for a server that decodes
    separators too.
    """
    assert match(b"POST", target) is None


@pytest.mark.parametrize("name", [b"Generate%2f..", b"Generate%5C..%5Cx", b"Generate\\."])
def test_dot_segments_in_a_report_name_are_rejected(name: bytes) -> None:
    """§1 `exports.reports = true`."""
    assert match(b"POST", b"/v8/Reports/" + name + b"/", reports=True) is None


@pytest.mark.parametrize(
    "segment",
    [
        b"...",
        b".a",
        b"a.",
        b"a..b",
        b"%2e%2e%2e",
        b"%2ea",
        b"%252e",
        b"a%2Fb",
        b"a%2F..b%5C.c",
        b"a\\b",
        b"%2F%2Fa%2f",
        b";",
        b"%00",
    ],
)
def test_other_unusual_segments_are_accepted(segment: bytes) -> None:
    """§1: `%2F` inside a segment is an ordinary character; the path is never decoded."""
    found = match(
        b"POST", b"/v8/RestoreSessions/" + segment + b"/organization/" + segment + b"/save"
    )
    assert found is not None
    assert found.session == segment.decode()


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"/",
        b"vb365.example.com:443",
        b"/v/RestoreSessions/s/organization/save",
        b"/vx/RestoreSessions/s/organization/save",
        b"/v8x/RestoreSessions/s/organization/save",
        b"v8/RestoreSessions/s/organization/save",
        b"/x/v8/RestoreSessions/s/organization/save",
        b"/RestoreSessions/s/organization/save",
        b"/v8/RestoreSessions/s/save",
        b"/v8/RestoreSessions/s/organizations/x/save",
        b"/v8/RestoreSessions/s/organization/saved",
        b"/v8/RestoreSessions/s/organization/xsave",
        b"/v8/RestoreSessions/s/organization/save/x",
        b"/v8/RestoreSessions/s/organization/save\n",
        b"/v8/RestoreSessions/s/organization/%73ave",
        b"/v8/RestoreSessions/s/organization?/save",
        b"/v8/RestoreSessions/s%2Forganization/save",
        b"http://vb365.example.com",
        b"http:///v8x",
        b"/v\xd9\xa8/RestoreSessions/s/organization/save",
    ],
)
def test_other_paths_are_not_exports(target: bytes) -> None:
    assert match(b"POST", target) is None


def test_the_parts_of_an_export_are_as_sent() -> None:
    found = match(b"POST", b"/V08/restoresessions/A%2fB\xff/ORGANIZATION/oneDrives/o/SAVE/?a=/b")
    assert found == Export(
        api="v08",
        session="A%2fB\xff",
        parent="/V08/restoresessions/A%2fB\xff/ORGANIZATION/oneDrives/o",
        title="SAVE",
        kind="Save",
    )


def test_the_absolute_form_is_matched() -> None:
    found = match(b"POST", b"HTTPS://vb365.example.com:4443" + SAVE)
    assert found == match(b"POST", SAVE)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a", b"/a", None),
        (b"/a?", b"/a", b""),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"//a/%2F", b"//a/%2F", None),
        (b"http://h", b"", None),
        (b"http://h?q", b"", b"q"),
        (b"http://u@h:1/a//b?q", b"/a//b", b"q"),
        (b"*", b"", None),
        (b"h:443", b"", None),
        (b"", b"", None),
    ],
)
def test_targets_split_into_path_and_query(target: bytes, path: bytes, query: bytes | None) -> None:
    """RFC 9112 §3.2: origin-form, absolute-form, authority-form, asterisk-form."""
    assert split_target(target) == (path, query)


@given(
    st.lists(
        st.binary(min_size=1, max_size=8).filter(lambda s: not set(s) & set(b"/?")), max_size=6
    ),
    st.binary(),
)
def test_the_rule_equals_the_expression_of_the_contract(segments: list[bytes], rest: bytes) -> None:
    """§1: the same result as the expression of the contract with a check of each segment."""
    target = (
        b"/v7/restoreSessions/s/Organization/"
        + b"".join(s + b"/" for s in segments)
        + b"export"
        + rest
    )
    path = target.partition(b"?")[0]
    dots = {b".", b"..", b"%2e", b"%2e.", b".%2e", b"%2e%2e"}
    segments = re.split(rb"/|\\|%2f|%5c", path.lower())
    expected = re.fullmatch(
        rb"/v\d+/restoresessions/[^/]+/organization/(?:[^/]+/)*(?:exporttopst|save|export)/?",
        path,
        re.IGNORECASE,
    ) and dots.isdisjoint(segments)
    assert (match(b"POST", target) is not None) == bool(expected)


@pytest.mark.parametrize(
    "unit",
    [
        b"a/",
        b"save/",
        b"/",
        b".",
        b"%2e/",
        b"%2f%2e",
        b"\\a/",
        b"organization/",
        b"v8/restoresessions/",
    ],
)
def test_matching_time_is_linear(unit: bytes) -> None:
    """A rule that backtracks would not return from 1 MiB. The time-out of the suite is the
    judge.
    """
    for tail in (b"", b"save", b"save/", b"savex"):
        match(
            b"POST",
            b"/v8/RestoreSessions/s/organization/" + unit * (2**20 // len(unit)) + tail,
            reports=True,
        )
    assert (
        match(b"POST", b"/v8/restoresessions/s/organization/" + b"a/" * 2**19 + b"save") is not None
    )
