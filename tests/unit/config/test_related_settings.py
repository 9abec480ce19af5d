"""Settings that need or exclude each other (CONTRACT §15)."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import load
from tests.unit.config.values import URL, problems_of, set_to


def test_certificate_and_key_come_together(pems: Path) -> None:
    one, other = str(pems / "one.pem"), str(pems / "two.key")
    assert (
        "must be set together"
        in problems_of({"upstream.url": URL, "listen.tls_certificate": one})[0].problem
    )
    assert (
        "must be set together"
        in problems_of({"upstream.url": URL, "listen.tls_key": other})[0].problem
    )
    mismatch = {"upstream.url": URL, "listen.tls_certificate": one, "listen.tls_key": other}
    assert "is not the key of the first certificate" in problems_of(mismatch)[0].problem
    good = mismatch | {"listen.tls_key": str(pems / "one.key")}
    assert load(None, good, {}).listen.tls_key == pems / "one.key"


def test_a_file_without_authorities_is_reported(pems: Path) -> None:
    (found,) = problems_of({"upstream.url": URL, "upstream.ca_file": str(pems / "one.key")})
    assert "holds no certificate" in found.problem


def test_a_missing_certificate_is_reported_once(pems: Path) -> None:
    flags = {
        "upstream.url": URL,
        "listen.tls_certificate": "/nowhere",
        "listen.tls_key": str(pems / "one.key"),
    }
    assert [problem.key for problem in problems_of(flags)] == ["listen.tls_certificate"]


@pytest.mark.parametrize(
    "ways",
    [
        {"fingerprint", "verify"},
        {"ca_file", "verify"},
        {"ca_file", "fingerprint"},
        {"fingerprint"},
        {"verify"},
    ],
)
def test_there_is_one_way_to_trust_the_upstream(ways: set[str], pems: Path) -> None:
    """System CAs, `ca_file`, `fingerprint` or `verify = false`: two of them contradict each
    other.
    """
    every = {"fingerprint": "ab" * 32, "ca_file": str(pems / "ca.pem"), "verify": "false"}
    flags = {f"upstream.{way}": every[way] for way in ways} | {"upstream.url": URL}
    if len(ways) == 1:
        assert load(None, flags, {}).upstream.url == URL
        assert (
            "upstream.url is http:" in problems_of(flags | {"upstream.url": "http://x"})[0].problem
        )
    else:
        assert "different ways to trust" in problems_of(flags)[0].problem


@pytest.mark.parametrize(
    "address", ["0.0.0.0:9465", "[::]:9465", "10.0.0.1:9465", "admin.example:9465"]
)
def test_an_admin_listener_that_others_reach_needs_a_token(address: str) -> None:
    """§15 admin: an address that is not loopback without a token is a configuration error."""
    (found,) = problems_of({"upstream.url": URL, "admin.address": address})
    assert found.key == "admin.token"
    assert "is required" in found.problem
    assert address in found.problem
    guarded = load(None, {"upstream.url": URL, "admin.address": address, "admin.token": "t"}, {})
    assert guarded.admin.token is not None


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_loopback_needs_no_token(address: str) -> None:
    assert set_to("admin.address", address).admin.address.loopback
