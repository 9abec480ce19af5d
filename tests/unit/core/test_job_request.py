"""CONTRACT §1, §9: the header fields of a job's request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.job import ExportRequest
from proxy.core.job_request import kickoff_fields, resumed_fields

STORED = ExportRequest(
    method="POST",
    target="/x",
    api="v8",
    session="s",
    title="save",
    content_type="text/plain",
    accept=None,
    accept_language="de",
    idempotency_key=None,
    fingerprint="f",
    host="kick-off",
)
KICKOFF = [
    (b"Host", b"h"),
    (b"Authorization", b"Bearer t"),
    (b"COOKIE", b"a=b"),
    (b"X-A", b"1"),
    (b"x-a", b"2"),
    (b"Content-Type", b"application/json"),
    (b"Connection", b"x-hop"),
    (b"X-Hop", b"1"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Range", b"bytes=1-"),
    (b"If-None-Match", b"*"),
    (b"Idempotency-Key", b"k"),
    (b"Accept-Encoding", b"gzip"),
    (b"Content-Length", b"5"),
    (b"Expect", b"100-continue"),
]


def test_the_job_sends_all_end_to_end_fields() -> None:
    """§1: in order and with their case; `Accept-Encoding: identity`."""
    sent = kickoff_fields([*KICKOFF, (b"Prefer", b"respond-async, wait=3")])
    assert sent == [*KICKOFF[:6], (b"Accept-Encoding", b"identity")]


def test_other_preferences_are_kept() -> None:
    """§1: only `respond-async` and `wait` are removed."""
    lines = [(b"Prefer", b"wait=3, return=minimal"), (b"prefer", b"respond-async,x;y")]
    assert kickoff_fields(lines)[0] == (b"Prefer", b"return=minimal, x;y")


def test_a_resumed_job_sends_the_new_credentials_and_the_stored_content_fields() -> None:
    """§9: Content-Type, Accept and Accept-Language are stored, all else comes from the resuming
    call.
    """
    call = [
        (b"Host", b"10.0.0.5"),
        (b"Authorization", b"Bearer new"),
        (b"Accept", b"application/json"),
        (b"Accept-Language", b"fr"),
        (b"Content-Type", b"x/y"),
        (b"Prefer", b"return=minimal"),
        (b"If-None-Match", b'W/"3"'),
        (b"X-XSRF-TOKEN", b"t"),
    ]
    assert resumed_fields(call, STORED) == [
        (b"Host", b"kick-off"),
        (b"Authorization", b"Bearer new"),
        (b"X-XSRF-TOKEN", b"t"),
        (b"Accept-Encoding", b"identity"),
        (b"Content-Type", b"text/plain"),
        (b"Accept-Language", b"de"),
    ]


def test_a_resumed_job_never_has_the_host_of_the_call() -> None:
    """§9: records of version 0.1.0 have none, and the upstream adds VB365's own."""
    sent = resumed_fields([(b"host", b"10.0.0.5")], replace(STORED, host=None))
    assert b"host" not in [name.lower() for name, _ in sent]


def test_a_resumed_job_keeps_its_host_if_the_call_names_it_in_connection() -> None:
    """§9: Connection lists fields of the call alone."""
    call = [(b"Connection", b"host, content-type, x-a"), (b"X-A", b"1"), (b"X-B", b"2")]
    assert resumed_fields(call, STORED) == [
        (b"Host", b"kick-off"),
        (b"X-B", b"2"),
        (b"Accept-Encoding", b"identity"),
        (b"Content-Type", b"text/plain"),
        (b"Accept-Language", b"de"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-Host",
        "X-Original-URL",
        "X-HTTP-Method-Override",
        "X-Rewrite-URL",
        "Forwarded",
        "x_forwarded_host",
    ],
)
def test_a_resumed_job_has_no_field_of_the_call_that_replaces_its_target(name: str) -> None:
    """§9: the resuming caller chooses neither host nor path nor method; a kick-off may."""
    field = (name.encode(), b"elsewhere")
    assert field not in resumed_fields([field, (b"X-A", b"1")], STORED)
    assert (b"X-A", b"1") in resumed_fields([field, (b"X-A", b"1")], STORED)
    assert field in kickoff_fields([field])
