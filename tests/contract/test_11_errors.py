"""CONTRACT §11, §13, §2: error bodies, the base of URLs, and responses checked against the OpenAPI
description.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from httplint import HttpRequestLinter, HttpResponseLinter

from proxy.core.errors import KINDS
from tests.contract.conftest import MakeStage, Stage
from tests.support.wire import Message, ask

UNKNOWN = "_async/exports/5f0c6d3e-0000-4000-8000-000000000001"


def check_problem(response: Message, name: str) -> None:
    """Check that the response has the form of §11 at its status."""
    document = response.json()
    assert document["type"] == f"urn:vb365-async:problem:{name}"
    assert document["status"] == response.status
    assert document["title"] == KINDS[name].title
    assert document["detail"] == document["message"] != ""
    assert document["instance"].startswith("/")
    assert response["X-VB365-Async"] == "proxy"
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("base", "coded"),
    [
        ("/v8/", True),
        ("/V8/", True),
        ("/v12/", True),
        ("/v7/", False),
        ("/v6/", False),
        ("/", False),
        ("/p/v8/", True),
    ],
)
async def test_only_v8_errors_have_an_error_code(
    make_stage: MakeStage, base: str, coded: bool
) -> None:
    """§11: `errorCode` is never null, and is also there with the public prefix before
    the version.
    """
    stage = await make_stage(PUBLIC__URL="https://x.example/p")
    response = await stage.get(base + UNKNOWN)
    check_problem(response, "job-not-found")
    assert response.json().get("errorCode", "none") == ("ResourceNotFound" if coded else "none")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/problem+json"),
        ("*/*", "application/problem+json"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/json, */*", "application/problem+json"),
        ("application/problem+json, application/json", "application/problem+json"),
    ],
)
async def test_accept_json_alone_gets_json(stage: Stage, accept: str | None, kind: str) -> None:
    """§11: the body is the same."""
    response = await stage.ask(
        "GET", "/v8/" + UNKNOWN, stage.fields | ({"Accept": accept} if accept else {})
    )
    assert response["Content-Type"] == kind
    check_problem(response, "job-not-found")


async def test_two_accept_lines_get_problem_json(stage: Stage) -> None:
    """§11: plain JSON is for `Accept: application/json` alone."""
    fields = [*stage.fields.items(), ("Accept", "application/json"), ("Accept", "*/*")]
    assert (await ask(stage.url, "GET", "/v8/" + UNKNOWN, fields))[
        "Content-Type"
    ] == "application/problem+json"


async def test_relayed_errors_are_unchanged(stage: Stage) -> None:
    """§11: VB365's 404 through the proxy has VB365's fields and body only."""
    through = await stage.get("/v8/Nothing")
    direct = await ask(stage.simulator.url, "GET", "/v8/Nothing", stage.fields)
    assert through.status == 404
    assert "X-VB365-Async" not in through
    assert through.body == direct.body
    assert through.names == direct.names


async def test_an_unreachable_upstream_is_502_on_other_paths(stage: Stage) -> None:
    """§11, §12: pass-through requests also get a body that is valid for VB365's clients."""
    await stage.simulator.stop()
    for path, code in (("/v8/Organizations", "HttpError"), ("/v7/Organizations", None)):
        response = await stage.get(path)
        assert response.status == 502
        check_problem(response, "upstream-unreachable")
        assert response.json().get("errorCode") == code


# §13


@pytest.mark.parametrize(
    ("settings", "fields", "base"),
    [
        ({}, {"Host": "vb365.example.com:4443"}, "http://vb365.example.com:4443"),
        ({}, {"Host": "vb365.example.com:80"}, "http://vb365.example.com"),
        ({}, {"Host": "h", "Forwarded": "proto=https;host=evil"}, "http://h"),
        ({}, {"Host": "h", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https"}, "http://h"),
        ({"PUBLIC__URL": "https://p.example/vb/"}, {"Host": "h"}, "https://p.example/vb"),
        ({"PUBLIC__URL": "https://p.example"}, {"Forwarded": "host=x"}, "https://p.example"),
        ({"PUBLIC__URL": "https://p.example:443/vb"}, {"Host": "h"}, "https://p.example/vb"),
        (
            {"PUBLIC__TRUSTED_PROXIES": "127.0.0.0/8"},
            {"Host": "h", "Forwarded": "proto=https;host=f"},
            "https://f",
        ),
        (
            {"PUBLIC__TRUSTED_PROXIES": "127.0.0.1"},
            {
                "Host": "h",
                "Forwarded": 'host="f:8443";proto=https, host=other',
                "X-Forwarded-Host": "x",
            },
            "https://f:8443",
        ),
        (
            {"PUBLIC__TRUSTED_PROXIES": "127.0.0.1"},
            {
                "Host": "h",
                "X-Forwarded-Proto": "https, http",
                "X-Forwarded-Host": "x.example, y",
                "X-Forwarded-Port": "8443",
                "X-Forwarded-Prefix": "/pre/",
            },
            "https://x.example:8443/pre",
        ),
        (
            {"PUBLIC__TRUSTED_PROXIES": "127.0.0.1"},
            {"Host": "h", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443"},
            "https://h",
        ),
        (
            {"PUBLIC__TRUSTED_PROXIES": "127.0.0.1"},
            {
                "Host": "h",
                "X-Forwarded-Proto": "gopher",
                "X-Forwarded-Host": "a b",
                "X-Forwarded-Port": "99999",
            },
            "http://h",
        ),
        (
            {"PUBLIC__TRUSTED_PROXIES": "10.0.0.0/8"},
            {"Host": "h", "Forwarded": "host=evil"},
            "http://h",
        ),
    ],
)
async def test_the_base_of_urls(
    make_stage: MakeStage, settings: dict[str, str], fields: dict[str, str], base: str
) -> None:
    """§13: public.url, else what a trusted direct peer forwards, else scheme and Host."""
    stage = await make_stage(**settings)
    response = await stage.ask(
        "POST", stage.export, stage.fields | fields | {"Prefer": "respond-async"}, b""
    )
    url = f"{base}/v8/_async/exports/{response.json()['id']}"
    assert response["Location"] == response["Content-Location"] == url
    links = response.json()["_links"]
    assert links["self"]["href"] == url
    assert links["result"]["href"] == url + "/result"
    assert links["cancel"]["href"] == url + "/cancel"


async def test_the_proxys_paths_work_with_and_without_the_prefix(make_stage: MakeStage) -> None:
    """§13, §2 suffix rule: the result is below the status URL that the client used."""
    stage = await make_stage(PUBLIC__URL="https://p.example/vb")
    response = await stage.kickoff(stage.export)
    path = response["Location"].removeprefix("https://p.example")
    stage_path = path.removeprefix("/vb")
    for status in (path, stage_path):
        got = await stage.get(status, Prefer="wait=10")
        while got.status == 202:
            got = await stage.get(status, Prefer="wait=10", If_None_Match=got["ETag"])
        assert (await stage.get(status + "/result")).body == stage.file()
        assert (await stage.ask("POST", status + "/cancel")).status == 200


# The OpenAPI description


def described(document: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    responses = document["paths"][path][method]["responses"]
    assert str(status) in responses, (path, method, status)
    found = responses[str(status)]
    if "$ref" in found:
        found = document["components"]["responses"][found["$ref"].rpartition("/")[2]]
    assert isinstance(found, dict)
    return found


async def test_responses_match_the_openapi_description(stage: Stage) -> None:
    """§2, §5, §11: status, fields, media type and body of each response are those
    of openapi.json.
    """
    document = (await stage.get("/_async/openapi.json")).json()
    job, listing = "/v{version}/_async/exports/{id}", "/v{version}/_async/exports"
    mailbox = "/v{version}/RestoreSessions/{restoreSessionId}/organization/mailboxes/{mailboxId}"
    kickoff = f"{mailbox}/exportToPst"

    def check(response: Message, path: str, method: str) -> Message:
        entry = described(document, path, method, response.status)
        for name in entry.get("headers", {}):
            optional = name in (
                "Idempotency-Replayed",
                "Preference-Applied",
                "Vary",
                "Location",
                "Retry-After",
            )
            optional |= (
                name == "Content-Range" and b"\r\nContent-Range: " in response.body
            )  # of several parts
            assert optional or name in response, (path, method, response.status, name)
        content = entry.get("content")
        if content and response.body:
            kind = response["Content-Type"].partition(";")[0]
            assert kind in content
            if kind.endswith("json"):
                schema = content[kind]["schema"] | {"components": document["components"]}
                jsonschema.Draft202012Validator(schema).validate(response.json())
        return response

    stage.fault(hold=True, count=1)
    started = check(await stage.kickoff(stage.export, Idempotency_Key="k"), kickoff, "post")
    status = stage.path(started["Location"])
    await stage.held()
    check(await stage.until(status, lambda shown: shown["phase"] == "Generating"), job, "get")
    check(await stage.get(status + "/result"), job + "/result", "get")
    check(await stage.ask("DELETE", status + "/result"), job + "/result", "delete")
    check(await stage.kickoff(stage.export, body=b"other", Idempotency_Key="k"), kickoff, "post")
    check(await stage.kickoff(stage.export + "?async=x"), kickoff, "post")
    check(await stage.ask("POST", status + "/cancel"), job + "/cancel", "post")
    check(await stage.finished(status), job, "get")
    done = await stage.done()
    check(await stage.get(done), job, "get")
    check(await stage.get(done + "/result"), job + "/result", "get")
    for field in (
        {"Range": "bytes=0-1"},
        {"Range": "bytes=0-1,5-6"},
        {"Range": "bytes=999999-"},
        {"If-Match": '"x"'},
    ):
        check(
            await stage.ask("GET", done + "/result", stage.fields | field), job + "/result", "get"
        )
    check(await stage.get("/v8/_async/exports"), listing, "get")
    check(await stage.get("/v8/_async/exports?limit=x"), listing, "get")
    check(await stage.ask("GET", "/v8/_async/exports", {}), listing, "get")
    for method, suffix in (("GET", ""), ("POST", "/cancel"), ("GET", "/result")):
        check(
            await stage.ask(method, done + suffix, stage.simulator.login("bob")),
            job + suffix,
            method.lower(),
        )
    check(await stage.ask("DELETE", done + "/result"), job + "/result", "delete")
    check(await stage.get(done + "/result"), job + "/result", "get")
    stage.fault(outlook_missing=True)
    failed = await stage.begun(stage.export)
    check(await stage.finished(failed), job, "get")
    check(await stage.ask("DELETE", failed), job, "delete")
    check(await stage.get(failed), job, "get")


async def test_httplint_finds_no_fault_in_the_proxys_responses(stage: Stage) -> None:
    """RFC 9110, RFC 9111, as an independent linter reads them."""
    status = await stage.done()
    etag = (await stage.get(status))["ETag"]
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("POST", stage.export, {"Prefer": "respond-async"}),
        ("GET", status, {}),
        ("GET", status, {"If-None-Match": etag}),
        ("GET", status + "/result", {}),
        ("GET", status + "/result", {"Range": "bytes=0-1"}),
        ("GET", "/v8/" + UNKNOWN, {}),
        ("GET", "/v8/_async/exports", {}),
        ("OPTIONS", status, {}),
        ("PUT", status, {}),
    ]
    for method, target, fields in requests:
        response = await stage.ask(
            method, target, stage.fields | fields, b"" if method == "POST" else None
        )
        request = HttpRequestLinter()
        request.process_request_topline(method.encode(), (stage.url + target).encode(), b"HTTP/1.1")
        request.process_headers(
            [(name.encode(), value.encode()) for name, value in (stage.fields | fields).items()]
        )
        linter = HttpResponseLinter()
        linter.request = request
        linter.process_response_topline(
            b"HTTP/1.1", str(response.status).encode(), response.reason.encode()
        )
        linter.process_headers([(name.encode(), value.encode()) for name, value in response.fields])
        linter.feed_content(response.body)
        linter.finish_content(True)
        bad = [str(note.summary) for note in linter.notes if note.level.name == "BAD"]
        assert not bad, (method, target, json.dumps(bad))
