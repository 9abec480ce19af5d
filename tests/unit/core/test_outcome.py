"""CONTRACT §5 `error`: the message of VB365 and the error of the job."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.job import ErrorCode
from proxy.core.outcome import MAX_MESSAGE, TABLE, codings, masked, message_of, row_of, secrets

OUTLOOK = "64-bit Outlook must be installed"
JSON = "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, {"message": OUTLOOK}),  # v6
        (JSON, {"message": OUTLOOK, "errorCode": None}),  # v7
        (JSON, {"stackTrace": "at Veeam.X()", "errorCode": "HttpError", "message": OUTLOOK}),  # v8
        (JSON, {"Message": "An error has occurred.", "ExceptionMessage": OUTLOOK}),
        (
            "application/problem+json",
            {"type": "about:blank", "title": "Error", "status": 500, "detail": OUTLOOK},
        ),
        ("application/problem+json", {"title": OUTLOOK, "status": 500}),
        (JSON, {"error": {"code": "x", "message": OUTLOOK}}),
        (JSON, {"error": {"message": {"lang": "en", "value": OUTLOOK}}}),
        (JSON, {"error": "invalid_grant", "error_description": OUTLOOK}),
        (JSON, {"error": OUTLOOK}),
        (JSON, {"message": ["", OUTLOOK]} | {"detail": OUTLOOK}),
        (JSON, [{"message": OUTLOOK}]),
        (JSON, OUTLOOK),
        (JSON, {"message": f"\r\n  {OUTLOOK}\t\n"}),
        (JSON, {"message": "64-bit\u2028Outlook \u202emust\x00\x1b be\r\n installed"}),
        (JSON, {"message": "<b>no</b>", "title": OUTLOOK}),
        (None, {"message": OUTLOOK}),
        ("text/html", {"message": OUTLOOK}),
    ],
)
def test_the_message_is_found_in_json(content_type: str | None, body: object) -> None:
    """§5 `message`: RESTExceptionInfo of v6, v7 and v8, and the error shapes of ASP.NET, RFC 9457,
    OAuth and OData.
    """
    assert message_of(content_type, json.dumps(body).encode()) == OUTLOOK


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("text/plain", b"64-bit Outlook\r\nmust be installed\r\n", OUTLOOK),
        ("Text/Plain; charset=utf-8", b"\xef\xbb\xbfno", "no"),
        ("text/plain", b"B\xfcro \x96 zu", "B\u00fcro \u2013 zu"),
        (None, b"Service stopped", "Service stopped"),
        (JSON, b'\xef\xbb\xbf{"message":"no"}', "no"),
        (JSON, '{"message":"no"}'.encode("utf-16"), "no"),
        (JSON, b'{"message":"Item <Inbox> not found"}', "Item <Inbox> not found"),
    ],
)
def test_short_text_is_a_message(content_type: str | None, body: bytes, message: str) -> None:
    assert message_of(content_type, body) == message


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html><body>500</body></html>"),
        ("text/plain", b"<!DOCTYPE html><title>500</title>"),
        ("text/plain", b"oops <br/> <pre>x</pre>"),
        ("text/html", b"plain words, but in a page"),
        (JSON, b'{"message":"<html><body>x</body></html>"}'),
        (JSON, b'{"broken":'),
        ("text/plain", b'{"broken":'),
        (JSON, b"{}"),
        (JSON, b'{"message":null,"error":{"message":7}}'),
        (JSON, b'{"message":" -- "}'),
        (JSON, b"[" * 100_000),
        (JSON, b'{"error":' * 5 + b'"deep"' + b"}" * 5),
        ("application/octet-stream", b"PK\x03\x04"),
        ("text/plain", b"x" * 5000),
        ("text/plain", b""),
        (JSON, b'{"message":"' + b"x" * 300_000 + b'"}'),
    ],
)
def test_unreadable_content_is_no_message(content_type: str | None, body: bytes) -> None:
    """§5: never markup, binary or half a document."""
    assert message_of(content_type, body) is None


def test_a_long_message_is_truncated() -> None:
    text = message_of(JSON, json.dumps({"message": "word " * 1000}).encode())
    assert text is not None
    assert (len(text) <= MAX_MESSAGE, text.endswith("word…")) == (True, True)


@given(
    st.text() | st.text("\r\n\t\x1b\x85\u2028\u202e<a /é", max_size=3000),
    st.sampled_from([JSON, "text/plain"]),
)
def test_every_message_is_one_bounded_visible_line(text: str, content_type: str) -> None:
    body = (
        json.dumps({"message": text}).encode()
        if content_type == JSON
        else text.encode(errors="replace")
    )
    message = message_of(content_type, body)
    if message is not None:
        assert 0 < len(message) <= MAX_MESSAGE
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in message)


@pytest.mark.parametrize(
    ("status", "has_message", "code", "retryable"),
    [
        (500, True, ErrorCode.ERROR, False),
        (500, False, ErrorCode.ERROR, True),
        (501, True, ErrorCode.ERROR, False),
        (502, True, ErrorCode.ERROR, True),
        (503, True, ErrorCode.ERROR, True),
        (504, False, ErrorCode.ERROR, True),
        (599, True, ErrorCode.ERROR, False),
        (400, True, ErrorCode.REJECTED, False),
        (401, False, ErrorCode.REJECTED, False),
        (404, False, ErrorCode.REJECTED, False),
        (408, True, ErrorCode.REJECTED, True),
        (425, False, ErrorCode.REJECTED, True),
        (429, True, ErrorCode.REJECTED, True),
        (499, True, ErrorCode.REJECTED, False),
        (202, True, ErrorCode.ERROR, True),
        (204, False, ErrorCode.ERROR, True),
        (206, False, ErrorCode.ERROR, True),
        (302, False, ErrorCode.ERROR, True),
        (999, True, ErrorCode.ERROR, True),
    ],
)
def test_the_table_decides_the_error_of_the_job(
    status: int, has_message: bool, code: ErrorCode, retryable: bool
) -> None:
    """§3.7, §5: 4xx UpstreamRejected, the rest UpstreamError. An error that VB365 explains is
    final.
    """
    row = row_of(status, OUTLOOK if has_message else None)
    assert (row.code, row.retryable) == (code, retryable)


def test_every_status_has_a_row_and_every_row_is_used() -> None:
    used = {row_of(status, message) for status in range(1000) for message in (None, "no")}
    assert used == set(TABLE)


def test_secrets_of_the_request_are_masked() -> None:
    """§5, §9: neither credentials nor unknown fields nor query values, also as System.Text.Json
    escapes them.
    """
    fields = [
        (b"Host", b"vb365.example.com"),
        (b"authorization", b"Bearer ab+cd/ef=="),
        (b"Cookie", b"session=s3cr3tvalue; a=b"),
        (b"X-Xsrf-Token", b"unknown-field"),
        (b"Accept-Language", b"language"),
        (b"User-Agent", b"some agent"),
    ]
    hidden = secrets(fields, b"/v8/x?plain=searched+words&y=%C3%BCber%20all&z=1")
    assert hidden == sorted(hidden, key=len, reverse=True)
    page = (
        "Bearer ab+cd/ef== ab\\u002Bcd/ef== session=s3cr3tvalue s3cr3tvalue unknown-field "
        "searched+words searched words über all %C3%BCber%20all"
    )
    assert masked(page.encode(), hidden) == b"*** *** *** *** *** *** *** *** ***"
    kept = b"Bearer tokens: some agent of vb365.example.com in language a=b z=1"
    assert masked(kept, hidden) == kept


def test_the_search_for_secrets_is_bounded() -> None:
    """A head of 256 KiB can have 30,000 values. Credentials come first, wherever they are."""
    fields = [
        (b"X-Many", b";".join(b"value%d" % n for n in range(30_000))),
        (b"Authorization", b"Bearer the-token"),
    ]
    hidden = secrets(fields, b"/x?" + b"&".join(b"a=value%d" % n for n in range(30_000)))
    assert len(hidden) <= 400
    assert b"the-token" in hidden


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ([], []),
        ([b""], []),
        ([b"identity"], []),
        ([b"Identity"], []),
        ([b"identity, IDENTITY"], []),
        ([b" ,identity\t,,", b"identity"], []),
        ([b"gzip"], [b"gzip"]),
        ([b"GZip, identity"], [b"gzip"]),
        ([b"identity", b"br"], [b"br"]),
        ([b"identity;q=1"], [b"identity;q=1"]),
        ([b"identitygzip"], [b"identitygzip"]),
    ],
)
def test_identity_is_not_a_content_coding(values: list[bytes], left: list[bytes]) -> None:
    """RFC 9110 §8.4.1: whatever its case and number."""
    assert codings(values) == left
