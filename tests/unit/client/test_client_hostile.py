"""A server that is not the proxy, or is hostile, cannot harm the user of the commands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from proxy.client.job import Job
from tests.unit.client.fake_proxy import EXPORT, ID, FakeProxy, document

DEEP = b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def answers(fake: FakeProxy, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """Respond with this body to all polls."""

    def status(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    monkeypatch.setattr(fake, "status", status)


@pytest.mark.parametrize("line", [("export", "--path", EXPORT), ("jobs", "show", ID)])
def test_a_response_without_an_end_is_an_error(
    run: Any, fake: FakeProxy, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]
) -> None:
    """What is kept in memory is bounded."""
    monkeypatch.setattr("proxy.client.wire._MAX_BODY", 1 << 20)
    answers(fake, monkeypatch, b"{" + b" " * (3 << 20))
    result = run(*line)
    assert result.exit_code == 1
    assert "is longer than 1 MiB" in result.stderr


def test_an_error_without_an_end_is_an_error(
    run: Any, fake: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the response to a download."""
    monkeypatch.setattr("proxy.client.wire._MAX_BODY", 1 << 20)

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=404, body=b" " * (3 << 20))

    monkeypatch.setattr(fake, "download", refuse)
    result = run("export", "--path", EXPORT)
    assert result.exit_code == 1
    assert "is longer than 1 MiB" in result.stderr


def test_a_deep_document_is_an_error(
    run: Any, fake: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(fake, monkeypatch, DEEP)
    result = run("jobs", "show", ID)
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    assert "without a JSON document" in result.stderr


@pytest.mark.parametrize("number", [10**400, 1e308, float("nan"), float("inf"), -1, 2**61])
def test_numbers_that_cannot_be_are_absent(number: float) -> None:
    progress = {"bytesReceived": number, "bytesTotal": number, "secondsRemaining": number}
    job = Job(json.loads(json.dumps(document("Running", "Transferring", progress=progress))))
    assert (job.received, job.size, job.seconds_left) == (0, None, None)


@pytest.mark.parametrize("seconds", ["9" * 400, "9" * 5000])
def test_a_retry_after_of_ages_is_ignored(run: Any, fake: FakeProxy, seconds: str) -> None:
    fake.retry_after = seconds
    assert run("export", "--path", EXPORT).exit_code == 0


def test_a_content_range_of_many_digits_is_an_error(
    run: Any, fake: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part(request: web.Request) -> web.Response:
        fields = {"Content-Range": f"bytes 0-{'9' * 5000}/{'9' * 5000}"}
        return web.Response(status=206, body=b"abcd", headers=fields)

    monkeypatch.setattr(fake, "download", part)
    result = run("export", "--path", EXPORT)
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    assert "instead of the bytes from 0 on" in result.stderr
