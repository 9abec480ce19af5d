"""The command `export`: kick-off, polls, outcomes, credentials (CONTRACT §15)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.client.fake_proxy import (
    EXPORT,
    FILE,
    ID,
    STATUS,
    STORY,
    SUCCESS,
    FakeProxy,
    document,
)


def test_an_export_ends_as_a_verified_file_named_after_its_format(
    run: Any, fake: FakeProxy, here: Path
) -> None:
    """§15, §3, §6: VB365 named it .zip, its first bytes are those of a PST."""
    result = run("export", "--path", EXPORT, "--body", '{"pstSizeLimitBytes": 1,}')
    assert result.exit_code == 0
    assert result.stdout == "Jane Roe.pst\n"
    assert (here / "Jane Roe.pst").read_bytes() == FILE
    assert [entry.name for entry in here.iterdir()] == ["Jane Roe.pst"]
    for line in (
        f"202 Accepted: job {ID}",
        "Generating",
        "Transferring",
        "Downloading",
        "SHA-256 verified",
    ):
        assert line in result.stderr


def test_the_kick_off_asks_for_async_and_sends_path_and_body_as_given(
    run: Any, fake: FakeProxy
) -> None:
    """§1: the target is never normalized, the body never parsed; §8: every export has a key of its
    own.
    """
    run("export", "--path", EXPORT, "--body", '{"a": 1,}')
    ((fields, body),) = fake.calls(f"POST {EXPORT}")
    assert body == b'{"a": 1,}'
    assert fields["Prefer"] == "respond-async"
    assert fields["Content-Type"] == "application/json"
    assert fields["Authorization"] == "Bearer good"
    assert re.fullmatch(r"[0-9a-f-]{36}", fields["Idempotency-Key"])


@pytest.mark.parametrize("given", ["body.json", "@body.json", "-"])
def test_the_body_comes_from_a_file_or_stdin(
    run: Any, fake: FakeProxy, here: Path, given: str
) -> None:
    (here / "body.json").write_bytes(b'{"b": 2}')
    assert run("export", "--path", EXPORT, "--body", given, stdin='{"b": 2}').exit_code == 0
    assert fake.calls(f"POST {EXPORT}")[0][1] == b'{"b": 2}'


def test_without_a_body_none_is_sent(run: Any, fake: FakeProxy) -> None:
    """§1: ten of the exports take no body."""
    run("export", "--path", EXPORT, "--idempotency-key", "none")
    ((fields, body),) = fake.calls(f"POST {EXPORT}")
    assert (body, fields["Content-Length"]) == (b"", "0")
    assert "Idempotency-Key" not in fields


def test_polls_respect_retry_after_and_etag(run: Any, fake: FakeProxy, slept: list[float]) -> None:
    """§4: Retry-After of 202 and of 304, If-None-Match from the second poll on."""
    fake.story = [document("Running", "Generating"), document("Running", "Generating"), SUCCESS]
    assert run("export", "--path", EXPORT).exit_code == 0
    assert slept == [3, 7]
    assert [
        fields.get("If-None-Match") is not None for fields, _ in fake.calls(f"GET {STATUS}")
    ] == [False, True, True]


def test_credentials_are_sent_to_the_given_address_only(run: Any, fake: FakeProxy) -> None:
    """§2: Location has another host and a prefix; the suffix rule needs neither."""
    assert run("export", "--path", EXPORT).exit_code == 0
    assert fake.calls(f"GET {STATUS}/result")


@pytest.mark.parametrize(
    ("ended", "code", "message"),
    [
        (
            document("Warning", "Completed", message="2 items were skipped"),
            3,
            "ended with Warning: 2 items were skipped",
        ),
        (document("Cancelled", "Completed"), 4, "ended with Cancelled"),
        (
            document(
                "Failed",
                "Completed",
                error={"code": "Interrupted", "message": "gone", "retryable": True},
            ),
            1,
            "ended with Failed (Interrupted): gone. Another try may succeed.",
        ),
    ],
)
def test_the_exit_code_is_that_of_the_outcome(
    run: Any, fake: FakeProxy, here: Path, ended: dict[str, Any], code: int, message: str
) -> None:
    """§15: 3 warning (with its file), 4 cancelled, 1 failed."""
    fake.story = [ended]
    result = run("export", "--path", EXPORT)
    assert result.exit_code == code
    assert message in result.stderr
    assert (here / "Jane Roe.pst").exists() == (code == 3)


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        (
            "application/json",
            b'{"message":"64-bit Outlook\\r\\n\\u001b[31mmust be installed"}',
            "64-bit Outlook [31mmust be",
        ),
        (
            "application/problem+json",
            b'{"title":"Bad","detail":"No such mailbox"}',
            "responded with 500: No such mailbox",
        ),
        ("text/plain", b"out of order", "responded with 500: out of order"),
        ("text/html", b"<html><body>IIS</body></html>", "responded with 500\n"),
    ],
)
def test_a_rejected_kick_off_is_reported_with_vb365s_message(
    run: Any, fake: FakeProxy, content_type: str, body: bytes, message: str
) -> None:
    """§5, §11: on one line, in whatever form it comes, and never a page; exit code 1."""

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=500, body=body, headers={"Content-Type": content_type})

    fake.job = refuse  # type: ignore[method-assign]
    result = run("export", "--path", EXPORT)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not {"\x1b", "\r", "<"} & set(result.stderr)


def test_no_download_prints_the_jobs_url_at_once_or_at_the_end(
    run: Any, fake: FakeProxy, here: Path
) -> None:
    result = run("export", "--path", EXPORT, "--no-download")
    assert (result.exit_code, result.stdout) == (0, f"{fake.url}{STATUS}\n")
    assert not fake.calls(f"GET {STATUS}")
    result = run("export", "--path", EXPORT, "--no-download", "--wait")
    assert result.stdout == f"{fake.url}{STATUS}\n"
    assert fake.story == [SUCCESS]
    assert list(here.iterdir()) == []


def test_release_deletes_the_result_after_the_download(run: Any, fake: FakeProxy) -> None:
    """§7: DELETE of the result."""
    assert run("export", "--path", EXPORT, "--release").exit_code == 0
    assert [method for method, target, _, _ in fake.seen if target.endswith("/result")] == [
        "GET",
        "DELETE",
    ]
    fake.story, fake.odd = list(STORY), [("DELETE " + STATUS + "/result", 409, {})]
    result = run("export", "--path", EXPORT, "--release")
    assert (result.exit_code, "has not deleted its copy" in result.stderr) == (0, True)


def test_a_401_of_a_poll_renews_the_token(run: Any, fake: FakeProxy) -> None:
    """§9: tokens are valid for 60 minutes, exports may take longer. The refresh token is used
    first, the password if that is rejected.
    """
    poll = f"GET {STATUS}"
    fake.odd = [(poll, 401, {}), (poll, 401, {}), ("POST /v8/token", 400, {})]
    fake.story = [document("Running", "Generating"), document("Running", "Queued"), SUCCESS]
    result = run(
        "export", "--path", EXPORT, VB365_TOKEN=None, VB365_USERNAME="jane", VB365_PASSWORD="pa&ss"
    )
    assert result.exit_code == 1, "a new token that is rejected at once is not renewed forever"
    fake.odd = [(poll, 401, {}), ("POST /v8/token", 400, {})]
    fake.story = list(STORY)
    fake.seen.clear()
    result = run(
        "export", "--path", EXPORT, VB365_TOKEN=None, VB365_USERNAME="jane", VB365_PASSWORD="pa&ss"
    )
    assert result.exit_code == 0
    grants = [
        re.findall(r"grant_type=(\w+)", body.decode())[0]
        for _, body in fake.calls("POST /v8/token")
    ]
    assert grants == ["password", "refresh_token", "password"]
    assert all(
        b"disable_antiforgery_token=true" in body for _, body in fake.calls("POST /v8/token")
    )


def test_a_password_is_prompted_for_and_never_shown(run: Any, fake: FakeProxy) -> None:
    result = run(
        "export", "--path", EXPORT, "-v", stdin="pa&ss\n", VB365_TOKEN=None, VB365_USERNAME="jane"
    )
    assert result.exit_code == 0
    assert "Authorization: ***" in result.stderr
    for secret in ("pa&ss", "pa%26ss", *fake.tokens):
        assert secret not in result.output


def test_the_login_uses_the_api_version_of_the_export(run: Any, fake: FakeProxy) -> None:
    run("export", "--path", "/v7/x/export", VB365_USERNAME="jane", VB365_PASSWORD="pa&ss")
    assert fake.calls("POST /v7/token")


def test_a_wrong_password_is_reported_with_the_servers_message(run: Any) -> None:
    result = run("jobs", "list", VB365_USERNAME="jane", VB365_PASSWORD="wrong")
    assert (result.exit_code, result.stderr) == (
        1,
        "The server responded with 400: wrong password\n",
    )


def test_the_token_file_is_read_again_when_the_token_expires(
    run: Any, fake: FakeProxy, here: Path
) -> None:
    """§9: another program keeps the file current; otherwise the command ends."""
    (here / "token").write_text("old\n")
    fake.tokens = {"old"}

    def rotate(called: str) -> None:
        if called == f"GET {STATUS}":
            fake.tokens = {"new"}
            (here / "token").write_text("new\n")

    fake.before = rotate
    assert run("export", "--path", EXPORT, "--token-file", "token").exit_code == 0
    fake.before, fake.tokens = lambda called: None, {"newer"}
    result = run("jobs", "show", ID, "--token-file", "token")
    assert (result.exit_code, "401" in result.stderr) == (1, True)


def test_an_expired_token_ends_the_command_not_the_export(run: Any, fake: FakeProxy) -> None:
    fake.before = lambda called: fake.tokens.clear() if called == f"GET {STATUS}" else None
    result = run("export", "--path", EXPORT)
    assert result.exit_code == 1
    assert "401: the credentials are not accepted" in result.stderr
    assert f"vb365-async-proxy jobs fetch {fake.url}{STATUS}" in result.stderr


def test_a_failed_kick_off_is_repeated_with_the_same_key(
    run: Any, fake: FakeProxy, slept: list[float]
) -> None:
    """§8: the same fingerprint under the same key is the same job; §3: 503 and 429 have
    Retry-After.
    """
    fake.odd = [
        (EXPORT, "abort", {}),
        (EXPORT, 503, {"Retry-After": "9"}),
        (EXPORT, 429, {"Retry-After": "5"}),
    ]
    assert run("export", "--path", EXPORT).exit_code == 0
    assert len({fields["Idempotency-Key"] for fields, _ in fake.calls(EXPORT)}) == 1
    assert slept[:3] == [1, 9, 5]


def test_without_a_key_a_kick_off_is_never_repeated(run: Any, fake: FakeProxy) -> None:
    fake.odd = [(EXPORT, "abort", {})]
    result = run("export", "--path", EXPORT, "--idempotency-key", "none")
    assert result.exit_code == 1
    assert (
        "was started. To find out: vb365-async-proxy jobs list --session s%2F1\n" in result.stderr
    )
    assert len(fake.calls(EXPORT)) == 1


def test_a_rejected_kick_off_is_not_repeated(run: Any, fake: FakeProxy) -> None:
    """§3: VB365's 400, 403, 404, 409, and a 502 and a 504, are final."""
    for status in (400, 403, 404, 409, 422, 500, 502, 504):
        fake.odd = [(EXPORT, status, {})]
        result = run("export", "--path", EXPORT)
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (
            1,
            f"The server responded with {status}: not now",
        )
    assert len(fake.calls(EXPORT)) == 8


def test_polls_survive_a_restart_for_a_bounded_time(
    run: Any, fake: FakeProxy, slept: list[float]
) -> None:
    poll = f"GET {STATUS}"
    fake.odd = [(poll, 502, {}), (poll, 503, {"Retry-After": "4"})]
    assert run("export", "--path", EXPORT).exit_code == 0
    assert slept[:2] == [1, 4]
    fake.story, fake.odd = list(STORY), [(poll, "abort", {})] * 4
    result = run("export", "--path", EXPORT)
    assert (result.exit_code, "trying again in 1 s" in result.stderr) == (0, True)
    fake.story, fake.odd = list(STORY), [(poll, 503, {})] * 9
    result = run("export", "--path", EXPORT)
    assert result.exit_code == 1
    assert len(fake.odd) == 1
    assert "jobs fetch" in result.stderr


def test_an_unreachable_server_is_reported_after_a_few_attempts(
    run: Any, slept: list[float]
) -> None:
    result = run("jobs", "list", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 2
    assert slept == [1, 2, 4]
    assert "http://127.0.0.1:9: Cannot connect: Connection refused" in result.stderr


def test_a_server_that_is_not_the_proxy_is_reported(run: Any, fake: FakeProxy) -> None:
    fake.odd = [(EXPORT, 200, {})]
    assert "not 202" in run("export", "--path", EXPORT).stderr
    fake.odd = [(EXPORT, 307, {"Location": "http://elsewhere.example/"})]
    assert "redirected to http://elsewhere.example/" in run("export", "--path", EXPORT).stderr
    fake.odd = [(f"GET {STATUS}", 200, {})]
    assert "not a job document" in run("jobs", "fetch", ID).stderr


def test_a_released_file_cannot_be_fetched(run: Any, fake: FakeProxy) -> None:
    gone = document("Success", "Completed")
    gone["result"]["state"] = "Expired"
    fake.story = [gone]
    result = run("jobs", "fetch", ID)
    assert (result.exit_code, "its result is Expired" in result.stderr) == (1, True)
    assert "jobs fetch" not in result.stderr
