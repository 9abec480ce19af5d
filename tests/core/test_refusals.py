"""Errors as bytes (CONTRACT §11)."""

from __future__ import annotations

import json

import pytest

from proxy.core.errors import Problem
from proxy.core.http.heads import parse_request
from proxy.core.refusals import problem_bytes

PROBLEM = Problem("upstream-unreachable", "down", retry_after=3)


def request(method: bytes = b"GET", accept: bytes = b"*/*") -> bytes:
    return method + b" /v8/x?secret HTTP/1.1\r\nHost: h\r\nAccept: " + accept + b"\r\n\r\n"


@pytest.mark.parametrize("keep", [True, False])
def test_11_a_problem_is_a_whole_answer(keep: bool) -> None:
    head, _, body = problem_bytes(PROBLEM, parse_request(request()), keep=keep).partition(
        b"\r\n\r\n"
    )
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 502 Bad Gateway"
    assert {b"X-VB365-Async: proxy", b"Retry-After: 3", b"Content-Length: %d" % len(body)} < set(
        lines
    )
    assert (b"Connection: close" in lines) is not keep
    assert json.loads(body)["instance"] == "/v8/x"


def test_11_accept_and_head_are_heeded() -> None:
    answer = problem_bytes(PROBLEM, parse_request(request(b"HEAD", b"application/json")), keep=True)
    assert b"\r\nContent-Type: application/json\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("begun", "path"),
    [
        (b"GET /v7/x?s HTTP/1.1\r\nHo", "/v7/x"),
        (b"GET /a\x01 HTTP/1.1", "/"),
        (b"", "/"),
        (b"GET /\xff HTTP", "/"),
    ],
)
def test_11_of_a_malformed_request_only_a_plain_path_is_repeated(begun: bytes, path: str) -> None:
    answer = problem_bytes(Problem("bad-request", "no"), None, keep=False, begun=begun)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["instance"] == path
