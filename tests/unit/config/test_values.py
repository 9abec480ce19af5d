"""The types of values, and how bad ones are reported (CONTRACT §15)."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import load
from proxy.config.addresses import HostPort
from proxy.config.scalars import show_duration, show_size
from tests.unit.config.values import KEY, URL, Written, problem_with, problems_of, set_to, value_of


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("exports.grace", "250ms", 0.25),
        ("exports.grace", "2s", 2.0),
        ("exports.grace", "10m", 600.0),
        ("exports.grace", "24h", 86400.0),
        ("exports.grace", "7d", 604800.0),
        ("exports.grace", " 1.5 s ", 1.5),
        ("exports.grace", "0s", 0.0),
        ("storage.min_free", "16MiB", 16 * 2**20),
        ("storage.min_free", "5GiB", 5 * 2**30),
        ("storage.min_free", "1.5TiB", 3 * 2**39),
        ("storage.min_free", "0B", 0),
        ("exports.attempts", "7", 7),
        ("exports.preflight", "No", False),
        ("exports.preflight", "1", True),
        ("log.format", "JSON", "json"),
        ("listen.address", "127.0.0.1:0", HostPort("127.0.0.1", 0)),
        ("listen.address", "[::]:4443", HostPort("::", 4443)),
        ("listen.address", "proxy.internal:80", HostPort("proxy.internal", 80)),
        ("upstream.url", "HTTPS://VB365.Example.com:4443/", URL),
        ("upstream.url", "http://[::1]:80", "http://[::1]:80"),
        ("upstream.fingerprint", ":".join(["AB"] * 32), "ab" * 32),
        ("public.url", "https://x.example/backup/", "https://x.example/backup"),
        ("public.url", "https://x.example:443/", "https://x.example"),
        ("public.url", "http://[::1]:80/b", "http://[::1]/b"),
        ("public.url", "http://x.example:443", "http://x.example:443"),
        ("public.segment", "_exports-2", "_exports-2"),
        ("storage.jobs", "rediss://user:pw@redis:6379/0", "rediss://user:pw@redis:6379/0"),
        ("storage.artifacts", "s3://bucket/a/b", "s3://bucket/a/b"),
        ("storage.dir", "/tmp", Path("/tmp")),
    ],
)
def test_a_value_is_read_as_it_is_meant(name: str, value: str, meant: object) -> None:
    """§15: durations `250ms 2s 10m 24h 7d`, sizes `16MiB 5GiB`, HOST:PORT with port 0, prefixes,
    `_` segments.
    """
    assert value_of(load(None, {"upstream.url": URL} | {name: value}, {}), name) == meant


@pytest.mark.parametrize(
    "value", ["vb365.example.com", "VB365.example.com:4443", "[fd00::7]:443", "10.0.0.7"]
)
def test_the_host_field_for_the_upstream(value: str) -> None:
    """§2, §15 `upstream.host`."""
    assert (
        load(None, {"upstream.url": URL}, {"VB365_PROXY_UPSTREAM__HOST": value}).upstream.host
        == value.lower()
    )


@pytest.mark.parametrize(
    "value", ["https://vb365", "vb365/x", "vb365:99999", "[nonsense]", "a b", "vb365:", "-"]
)
def test_what_is_no_host_field_is_refused(value: str) -> None:
    assert problem_with("upstream.host", value).key == "upstream.host"


def test_host_names_of_the_admin_listener() -> None:
    """§16 `admin.hosts`."""
    hosts = {"VB365_PROXY_ADMIN__HOSTS": "Proxy.example.com, vb365-proxy"}
    assert load(None, {"upstream.url": URL}, hosts).admin.hosts == (
        "proxy.example.com",
        "vb365-proxy",
    )
    assert problem_with("admin.hosts", "https://proxy").key == "admin.hosts"


@pytest.mark.parametrize(
    "value", ["10.0.0.7, 10.1.0.0/16,::1", '["10.0.0.7", "10.1.0.0/16", "::1"]']
)
def test_lists_in_the_environment_are_comma_separated_or_json(value: str) -> None:
    """§15: lists in the environment; `trusted_proxies` takes addresses and CIDR ranges."""
    networks = set_to("public.trusted_proxies", value).public.trusted_proxies
    assert networks == tuple(
        ipaddress.ip_network(item) for item in ("10.0.0.7/32", "10.1.0.0/16", "::1/128")
    )


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("exports.grace", "2", "is not a duration"),
        ("exports.grace", "-2s", "is not a duration"),
        ("exports.grace", "1y", "is not a duration"),
        ("exports.grace", "9999d", "is too long"),
        ("exports.stall_timeout", "0s", "must be more than zero"),
        ("storage.min_free", "16MB", "is not a size"),
        ("exports.attempts", "0", "is not a whole number of at least 1"),
        ("exports.attempts", "1.5", "is not a whole number of at least 1"),
        ("upstream.pool", "-1", "is not a whole number of at least 0"),
        ("exports.preflight", "maybe", "is not true or false"),
        ("log.level", "loud", "is not a known value"),
        ("listen.address", "4443", "is not HOST:PORT"),
        ("listen.address", ":4443", "is not HOST:PORT"),
        ("listen.address", "::1:4443", "is not HOST:PORT"),
        ("listen.address", "[nonsense]:4443", "is not HOST:PORT"),
        ("listen.address", "127.0.0.1:65536", "is not HOST:PORT"),
        ("listen.address", "a..b:4443", "is not HOST:PORT"),
        ("upstream.fingerprint", "abcd", "is not a SHA-256 fingerprint"),
        ("upstream.ca_file", "/nowhere/ca.pem", "cannot be read (No such file or directory)"),
        ("public.url", "https://x/../y", "contains a path that cannot be a prefix"),
        ("public.url", "https://x/a?b", "contains a query or a fragment"),
        ("public.segment", "async", "is not a valid path segment"),
        ("public.segment", "_a/b", "is not a valid path segment"),
        ("public.trusted_proxies", "10.0.0.1/8", "not a network"),
        ("public.trusted_proxies", '["10.0.0.1"', "is not a JSON array"),
        ("public.trusted_proxies", "[" * 5000, "is not a JSON array"),
        ("storage.jobs", "postgres://x", "is not a supported store"),
        ("storage.artifacts", "s3://", "is not a supported store"),
        ("storage.dir", "/dev/null", "is not a directory"),
        ("admin.token", "two words", "is not a bearer token"),
        ("secrets.key", "short", "key 1 is not a Fernet key"),
        ("secrets.key", f"{KEY},{KEY[:-2]}", "key 2 is not a Fernet key"),
        ("secrets.key", f"{KEY[:-1]}é", "key 1 is not a Fernet key"),
    ],
)
def test_a_bad_value_is_reported_with_its_source_and_a_hint(
    name: str, value: str, problem: str
) -> None:
    found = problem_with(name, value)
    assert problem in found.problem
    assert found.key == name
    assert found.source == "environment variable VB365_PROXY_" + name.upper().replace(".", "__")
    assert found.hint.endswith(".")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("vb365.example.com:4443", "is not a URL with a host"),
        ("vb365", "is not a URL with a host"),
        ("https://", "is not a URL with a host"),
        ("https://a b", "is not a URL with a host"),
        ("https://x:99999", "is not a URL with a host"),
        ("https://x:0", "is not a URL with a host"),
        ("https://x\n.y", "is not a URL with a host"),
        ("https://bücher.example", "is not a URL with a host"),
        ("https://[::1", "is not a URL with a host"),
        ("https://a..b", "is not a URL with a host"),
        (f"https://{'x' * 64}.example", "is not a URL with a host"),
        ("ftp://x", "begins with ftp:"),
        ("https://x/v8", "contains a path"),
        ("https://x/?a=b", "contains a query or a fragment"),
        ("https://x?", "contains a query or a fragment"),
        ("https://x#y", "contains a query or a fragment"),
        ("https://alice:secret@x", "contains a user name or password"),
    ],
)
def test_the_upstream_is_scheme_host_and_port_only(url: str, problem: str) -> None:
    """§15 upstream.url; a password in it is not shown again."""
    (found,) = problems_of({"upstream.url": url})
    assert problem in found.problem
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("[exports]\ngrace = 2", "= 2 is not a duration"),
        ("[exports]\nattempts = true", "= true is not a whole number of at least 1"),
        ("[exports]\nattempts = 1.5", "= 1.5 is not a whole number of at least 1"),
        ("[exports]\npreflight = 1", "= 1 is not true or false"),
        ("[public]\nsegment = 3", "= 3 is not text"),
        ("[public]\ntrusted_proxies = 3", "= 3 is not a list"),
        ("[webhooks]\nurls = [3]", "= [3] is not text"),
        ("[upstream]\nverify = 1979-05-27", '= "1979-05-27" is not true or false'),
        ("exports = 3", "is not a known setting"),
        ("[exports.grace]\nx = 1", '= {"x": 1} is not a duration'),
    ],
)
def test_a_toml_value_of_another_type_is_reported(
    written: Written, toml: str, problem: str
) -> None:
    (found,) = problems_of({"upstream.url": URL}, toml=written(toml))
    assert problem in found.problem
    assert found.source.endswith("proxy.toml")


@given(st.floats(min_value=0.001, max_value=3650 * 86400.0))
def test_a_duration_that_is_shown_reads_as_the_same(seconds: float) -> None:
    assert set_to("exports.grace", show_duration(seconds)).exports.grace == pytest.approx(
        seconds, abs=1e-6
    )


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_that_is_shown_reads_as_the_same(size: int) -> None:
    assert set_to("storage.min_free", show_size(size)).storage.min_free == size


@pytest.mark.parametrize(
    ("address", "reached"),
    [("0.0.0.0:1", ("127.0.0.1", 1)), ("[::]:1", ("::1", 1)), ("10.0.0.1:1", ("10.0.0.1", 1))],
)
def test_an_unspecified_address_is_reached_on_loopback(
    address: str, reached: tuple[str, int]
) -> None:
    assert set_to("listen.address", address).listen.address.reachable == reached


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("1\u200b0s", r'"1\u200b0s"'),
        ("\ufeff10s", r'"\ufeff10s"'),
        ("1\xa0s\x1b[2J", r'"1\xa0s\u001b[2J"'),
        ("1\x9bs", r'"1\x9bs"'),
    ],
)
def test_invisible_characters_of_a_value_are_shown_escaped(value: str, shown: str) -> None:
    found = str(problem_with("exports.grace", value))
    assert f"exports.grace = {shown} is not a duration" in found
    assert found.replace("\n", "").isprintable()
