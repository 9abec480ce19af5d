"""The configuration: sources, types of values, errors (CONTRACT §15)."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.config import (
    ConfigError,
    Problem,
    Settings,
    format_problems,
    load,
    loading,
    startup_problems,
    text,
)
from proxy.config.addresses import HostPort
from proxy.config.scalars import show_duration, show_size
from proxy.config.settings import SECTIONS, Exports
from tests.support.commands import PYTHON, finished

URL = "https://vb365.example.com:4443"
KEY = base64.urlsafe_b64encode(bytes(32)).decode()
SIGNING = base64.b64encode(b"c4nary of thirty-two random byte").decode()
NEWER_KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(toml: str) -> Path:
        path = tmp_path / "proxy.toml"
        path.write_text(toml)
        return path

    return write


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, two certificates and their keys."""
    directory, authority = tmp_path_factory.mktemp("pems"), trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for name in ("one", "two"):
        leaf = authority.issue_cert("localhost")
        leaf.private_key_pem.write_to_path(directory / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
    return directory


def set_to(name: str, value: str) -> Settings:
    """The settings with one of them from the environment."""
    variable = "VB365_PROXY_" + name.upper().replace(".", "__")
    return load(None, {"upstream.url": URL}, {variable: value})


def value_of(settings: Settings, name: str) -> object:
    section, key = name.split(".")
    value: object = getattr(getattr(settings, section), key)
    return value


def problems_of(
    flags: dict[str, str], environ: dict[str, str] | None = None, toml: Path | None = None
) -> list[Problem]:
    with pytest.raises(ConfigError) as refused:
        load(toml, flags, environ or {})
    return refused.value.problems


def problem_with(name: str, value: str) -> Problem:
    """The one problem of a value in the environment."""
    with pytest.raises(ConfigError) as refused:
        set_to(name, value)
    (problem,) = refused.value.problems
    return problem


# The table of §15


#: CONTRACT §15, row by row, as it is written there; None where it names no default.
TABLE: dict[str, dict[str, Any]] = {
    "listen": {
        "address": HostPort("0.0.0.0", 4443), "tls_certificate": None, "tls_key": None,
        "head_timeout": 60.0, "handshake_timeout": 10.0, "idle_timeout": 150.0,
        "max_connections": 10_000, "workers": 1,
    },
    "upstream": {
        "host": None, "ca_file": None, "fingerprint": None, "verify": True, "preserve_host": True,
        "check_timeout": 5.0, "forwarded": False, "connect_timeout": 10.0, "pool": 0,
    },
    "exports": {
        "max_running": 4, "max_running_per_caller": 0, "max_queued": 1000, "max_per_caller": 50,
        "grace": 2.0, "max_wait": 45.0, "preflight": True,
        "preflight_timeout": 5.0, "max_request_body": 16 * 2**20, "body_memory": 64 * 2**20,
        "generate_timeout": 24 * 3600.0, "stall_timeout": 600.0, "attempts": 3,
        "suspend_ttl": 3600.0, "cancel_hold": 120.0, "max_records_per_caller": 1000,
        "result_ttl": 24 * 3600.0, "record_ttl": 7 * 24 * 3600.0, "watch_events": True,
        "reports": False, "rescue_sync": False, "rescue_ttl": 3600.0,
    },
    "storage": {
        "dir": Path("/var/lib/vb365-async-proxy"), "jobs": "disk", "artifacts": "file",
        "min_free": 5 * 2**30, "max_records": 20_000, "max_bytes": None,
    },
    "access": {"cache": 60.0},
    "secrets": {"key": None, "key_file": None},
    "public": {"url": None, "trusted_proxies": (), "segment": "_async"},
    "cluster": {"heartbeat": 10.0, "lease": 30.0},
    "admin": {"address": HostPort("127.0.0.1", 9465), "token": None, "hosts": ()},
    "log": {
        "format": "console",
        "level": "info",
        "file": None,
        "audit": None,
        "access": False,
        "max_size": 64 << 20,
        "keep": 5,
    },
    "webhooks": {"urls": (), "secrets": (), "events": (), "expiring_before": 3600.0},
}  # fmt: skip


def test_every_default_is_that_of_the_contract() -> None:
    """§15: the table, key by key; `upstream.url` is the one required setting."""
    settings = load(None, {"upstream.url": URL}, {})
    for section, values in TABLE.items():
        found = {
            key: getattr(getattr(settings, section), key) for key in SECTIONS[section].model_fields
        }
        assert found == values | ({"url": URL} if section == "upstream" else {})
    assert list(SECTIONS) == list(TABLE)


def test_the_upstream_is_required() -> None:
    """§15: `url (required)`, and the problem says all three ways to set it."""
    (problem,) = problems_of({})
    assert (problem.key, problem.problem) == ("upstream.url", "is required")
    assert "--upstream" in problem.hint
    assert "VB365_PROXY_UPSTREAM__URL" in problem.hint


def test_settings_are_frozen() -> None:
    settings = load(None, {"upstream.url": URL}, {})
    with pytest.raises(ValidationError, match="frozen"):
        settings.exports.grace = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        settings.exports = Exports()


def test_code_may_set_values_as_they_are() -> None:
    """Values that code passes are not parsed: seconds and bytes."""
    assert Exports(grace=0.05, max_request_body=10).grace == 0.05


# Sources and their precedence


def test_flags_beat_environment_beats_secret_files_beats_toml_beats_defaults(
    written: Written, tmp_path: Path
) -> None:
    """§15: precedence flags > environment > secret files > TOML > defaults."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    toml = written(
        '[upstream]\nurl = "http://toml"\n[listen]\naddress = "toml:1"\n[exports]\ngrace = '
        '"1s"\nattempts = 9'
    )
    (secrets / "vb365_proxy_upstream__url").write_text("http://secret\n")
    (secrets / "VB365_PROXY_LISTEN__ADDRESS").write_text("secret:2")
    (secrets / "VB365_PROXY_EXPORTS__GRACE").write_text("2s")
    (secrets / "somebody-elses").write_text("not ours")
    environ = {
        "VB365_PROXY_SECRETS_DIR": str(secrets),
        "VB365_PROXY_UPSTREAM__URL": "http://environment",
        "VB365_PROXY_LISTEN__ADDRESS": "environment:3",
    }
    settings = load(toml, {"upstream.url": "http://flag", "listen.address": None}, environ)
    assert settings.upstream.url == "http://flag"
    assert str(settings.listen.address) == "environment:3"
    assert settings.exports.grace == 2.0
    assert settings.exports.attempts == 9
    assert settings.exports.max_running == 4


def test_an_empty_value_is_no_value(written: Written) -> None:
    """Container platforms set variables to nothing: the next source decides."""
    toml = written(f'[upstream]\nurl = "{URL}"\nca_file = ""\n[exports]\ngrace = "1s"')
    settings = load(
        toml,
        {"listen.address": ""},
        {"VB365_PROXY_EXPORTS__GRACE": "", "VB365_PROXY_ADMIN__TOKEN": ""},
    )
    assert settings.exports.grace == 1.0
    assert settings.upstream.ca_file is None
    assert settings.admin.token is None


@pytest.mark.parametrize(
    "variable",
    [
        "VB365_PROXY_CONFIG",
        "VB365_PROXY_SERVICE_HOST",
        "VB365_PROXY_SERVICE_PORT_HTTPS",
        "VB365_PROXY_PORT",
        "VB365_PROXY_PORT_4443_TCP_ADDR",
        "HOME",
    ],
)
def test_variables_that_are_no_settings_are_left_alone(variable: str) -> None:
    """A Kubernetes service named vb365-proxy puts the latter ones into every pod."""
    assert load(None, {"upstream.url": URL}, {variable: "tcp://10.0.0.1:4443"}).upstream.url == URL


def test_every_setting_can_be_set_in_the_environment() -> None:
    """§15: `VB365_PROXY_<SECTION>__<KEY>`: whatever the default is, written as it is written, is
    accepted.
    """
    environ = {
        f"VB365_PROXY_{section}__{key}".upper(): value
        if isinstance(value, str)
        else json.dumps(value)
        for section, values in text.defaults().items()
        for key, value in values.items()
        if value is not None
    }
    environ["VB365_PROXY_UPSTREAM__URL"] = URL
    assert load(None, {}, environ) == load(None, {"upstream.url": URL}, {})


# Values


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
        ("upstream.fingerprint", "abcd", "is not a SHA-256 fingerprint"),
        ("upstream.ca_file", "/nowhere/ca.pem", "cannot be read (No such file or directory)"),
        ("public.url", "https://x/../y", "contains a path that cannot be a prefix"),
        ("public.url", "https://x/a?b", "contains a query or a fragment"),
        ("public.segment", "async", "is not a valid path segment"),
        ("public.segment", "_a/b", "is not a valid path segment"),
        ("public.trusted_proxies", "10.0.0.1/8", "not a network"),
        ("public.trusted_proxies", '["10.0.0.1"', "is not a JSON array"),
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


# Settings that belong together


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


@pytest.mark.parametrize(
    ("address", "reached"),
    [("0.0.0.0:1", ("127.0.0.1", 1)), ("[::]:1", ("::1", 1)), ("10.0.0.1:1", ("10.0.0.1", 1))],
)
def test_an_unspecified_address_is_reached_on_loopback(
    address: str, reached: tuple[str, int]
) -> None:
    assert set_to("listen.address", address).listen.address.reachable == reached


def test_webhooks_need_a_secret() -> None:
    assert (
        "is required"
        in problems_of({"upstream.url": URL, "webhooks.urls": "https://x/hook?a=b"})[0].problem
    )
    both = {
        "upstream.url": URL,
        "webhooks.urls": "https://x/hook?a=b",
        "webhooks.secrets": f"whsec_{SIGNING}",
    }
    assert load(None, both, {}).webhooks.urls == ("https://x/hook?a=b",)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("urls", "https://x/hook,ftp://y", "begins with ftp:"),
        ("urls", "https://x/hook?a#b", "contains a URL with a fragment"),
        ("urls", ",".join(f"https://x/{n}" for n in range(7)), "has 7 values"),
        ("events", "export.succeeded,succeeded", "contains 'succeeded', which is no event type"),
        ("secrets", "whsec_AAAA", "is not whsec_ and 24 to 64 bytes in base64"),
        ("secrets", SIGNING, "is not whsec_ and 24 to 64 bytes in base64"),
        ("secrets", "whsec_" + "A" * 43 + "!", "is not whsec_ and 24 to 64 bytes in base64"),
        ("expiring_before", "1", "is not a duration"),
    ],
)
def test_17_a_bad_webhook_setting_is_named_with_its_fix(
    name: str, value: str, problem: str
) -> None:
    """§15: the key, the value and the fix, and nothing is started."""
    found = problem_with(f"webhooks.{name}", value)
    assert found.key == f"webhooks.{name}"
    assert problem in found.problem
    assert found.hint
    assert (f'= "{value}"' in found.problem) == (name != "secrets" and "?" not in value)


def test_17_events_select_and_secrets_rotate() -> None:
    flags = {
        "upstream.url": URL,
        "webhooks.urls": "https://x/a, https://x/b",
        "webhooks.secrets": f"whsec_{SIGNING},whsec_{KEY}",
        "webhooks.events": "export.succeeded,export.failed",
        "webhooks.expiring_before": "2h",
    }
    webhooks = load(None, flags, {}).webhooks
    assert webhooks.urls == ("https://x/a", "https://x/b")
    assert [each.get_secret_value() for each in webhooks.secrets] == [
        f"whsec_{SIGNING}",
        f"whsec_{KEY}",
    ]
    assert webhooks.events == ("export.succeeded", "export.failed")
    assert webhooks.expiring_before == 7200.0


def test_fernet_keys_rotate_in_place_or_in_a_file(tmp_path: Path) -> None:
    """§15 secrets: several keys, the newest first; the file is read again so that it
    can be rotated.
    """
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    assert [
        k.get_secret_value() for k in set_to("secrets.key", f"{NEWER_KEY},{KEY}").secrets.keys
    ] == [NEWER_KEY, KEY]
    secrets = set_to("secrets.key_file", str(file)).secrets
    assert [k.get_secret_value() for k in secrets.keys] == [KEY]
    file.write_text(f"{NEWER_KEY}\n{KEY}\n")
    assert [k.get_secret_value() for k in secrets.keys] == [NEWER_KEY, KEY]
    assert set_to("log.level", "info").secrets.keys == ()
    file.write_text("nonsense")
    assert "is not a Fernet key" in problem_with("secrets.key_file", str(file)).problem
    file.write_text(KEY)
    both = problems_of({"upstream.url": URL, "secrets.key": KEY, "secrets.key_file": str(file)})
    assert "and secrets.key cannot be set together" in both[0].problem


# Mistakes


def test_all_problems_of_all_sources_are_reported_at_once(written: Written, tmp_path: Path) -> None:
    """§15: unknown keys and bad values: all problems at once, each with its source."""
    toml = written(
        'top = 1\n[exports]\nmax_runing = 3\ngrace = 5\n[nonsense]\nx = 1\n[public]\nsegment = "x"'
    )
    secret = tmp_path / "VB365_PROXY_ADMIN__TOCKEN"
    secret.write_text("x")
    environ = {
        "VB365_PROXY_EXPORTS_GRACE": "1s",
        "VB365_PROXY_ADMIN__ADDRESS": "0.0.0.0:1",
        "VB365_PROXY_SECRETS_DIR": str(tmp_path),
    }
    problems = problems_of({"listen.address": "x"}, environ, toml)
    assert {(p.source, p.key) for p in problems} == {
        (str(toml), "top"),
        (str(toml), "exports.max_runing"),
        (str(toml), "nonsense.x"),
        (str(toml), "exports.grace"),
        (str(toml), "public.segment"),
        (str(secret), "admin.tocken"),
        ("environment variable VB365_PROXY_EXPORTS_GRACE", "exports_grace"),
        ("flag --listen", "listen.address"),
        ("configuration", "upstream.url"),
        ("configuration", "admin.token"),
    }
    assert format_problems(problems).startswith("10 problems in the configuration:\n")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("VB365_PROXY_EXPORTS_GRACE", "exports.grace"),
        ("VB365_PROXY_EXPORTS__GRASE", "exports.grace"),
        ("VB365_PROXY_PUBLIC__TRUSTED_PROXY", "public.trusted_proxies"),
        ("VB365_PROXY_STORAGE__DATA_DIR", "storage.dir"),
    ],
)
def test_a_misspelt_setting_is_guessed(variable: str, meant: str) -> None:
    (problem,) = problems_of({"upstream.url": URL}, {variable: "x"})
    assert problem.hint == f"Did you mean {meant}?"


def test_the_hint_for_an_unguessable_setting_names_config_init() -> None:
    (problem,) = problems_of({"upstream.url": URL}, {"VB365_PROXY_QQQQ": "x"})
    assert "config init" in problem.hint


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[exports\n", "is not TOML"),
        (b"\xff", "is not UTF-8 (byte 1)"),
        (b"a = 1\na = 2", "is not TOML"),
        (None, "cannot be read"),
    ],
)
def test_an_unreadable_file_is_one_problem_among_the_others(
    content: bytes | None, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "proxy.toml"
    if content is not None:
        path.write_bytes(content)
    problems = problems_of({"upstream.url": URL}, {"VB365_PROXY_EXPORTS__GRACE": "x"}, path)
    assert [p.source for p in problems] == [
        str(path),
        "environment variable VB365_PROXY_EXPORTS__GRACE",
    ]
    assert problem in problems[0].problem


def test_secret_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    (tmp_path / "VB365_PROXY_ADMIN__TOKEN").write_bytes(b"\xff")
    (problem,) = problems_of({"upstream.url": URL}, {"VB365_PROXY_SECRETS_DIR": str(tmp_path)})
    assert "is not UTF-8" in problem.problem
    (problem,) = problems_of({"upstream.url": URL}, {"VB365_PROXY_SECRETS_DIR": "/nowhere"})
    assert problem.source == "VB365_PROXY_SECRETS_DIR"


# Files of Windows programs


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_files_of_windows_programs_are_read(mark: bytes, tmp_path: Path) -> None:
    """Notepad and Windows PowerShell begin UTF-8 with a byte order mark and end lines with CR
    LF.
    """
    (tmp_path / "proxy.toml").write_bytes(
        mark + f'[upstream]\r\nurl = "{URL}"\r\n[storage]\r\ndir = "Zürich"\r\n'.encode()
    )
    (tmp_path / "VB365_PROXY_ADMIN__TOKEN").write_bytes(mark + b"secret\r\n")
    (tmp_path / "keys").write_bytes(mark + f"{NEWER_KEY}\r\n{KEY}\r\n".encode())
    environ = {
        "VB365_PROXY_SECRETS_DIR": str(tmp_path),
        "VB365_PROXY_SECRETS__KEY_FILE": str(tmp_path / "keys"),
    }
    settings = load(tmp_path / "proxy.toml", {}, environ)
    assert settings.storage.dir == Path("Zürich")
    assert settings.admin.token is not None
    assert settings.admin.token.get_secret_value() == "secret"
    assert [key.get_secret_value() for key in settings.secrets.keys] == [NEWER_KEY, KEY]


def test_utf_8_is_read_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_bytes(
        f'[upstream]\nurl = "{URL}"\n[storage]\ndir = "Zürich"\n'.encode()
    )
    code = "import sys; from pathlib import Path; from proxy.config import load;"
    code += "print(ascii(str(load(Path(sys.argv[1]), {}, {}).storage.dir)))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    file = str(tmp_path / "proxy.toml")
    done = finished("-c", code, file, program=PYTHON, env=environment, check=True)
    assert done.stdout == "'Z\\xfcrich'\n"


def test_a_pem_file_in_utf_16_is_named(pems: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(
        (pems / "ca.pem").read_text(encoding="ascii"), encoding="utf-16"
    )
    problem = problem_with("upstream.ca_file", str(tmp_path / "ca.pem"))
    assert "ca.pem is UTF-16: save it as UTF-8" in problem.problem


def test_utf_16_is_named_in_every_file(tmp_path: Path) -> None:
    """Windows PowerShell's `>` writes UTF-16."""
    for name, content in (
        ("proxy.toml", "[upstream]"),
        ("VB365_PROXY_ADMIN__TOKEN", "secret"),
        ("keys", KEY),
    ):
        (tmp_path / name).write_text(content, encoding="utf-16")
    environ = {
        "VB365_PROXY_SECRETS_DIR": str(tmp_path),
        "VB365_PROXY_SECRETS__KEY_FILE": str(tmp_path / "keys"),
    }
    problems = problems_of({"upstream.url": URL}, environ, tmp_path / "proxy.toml")
    assert len(problems) == 3
    assert {problem.hint for problem in problems} == {"Save it as UTF-8."}
    assert all("is UTF-16" in problem.problem for problem in problems)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (r'dir = "C:\data"', "Write a Windows path in 'single quotes' or with forward slashes"),
        (
            r'dir = "C:\Users\backup"',
            "Write a Windows path in 'single quotes' or with forward slashes",
        ),
        (r'dir = "C:\new"', "Write a Windows path in 'single quotes' or with forward slashes"),
        (r"dir = C:\data", "Write a Windows path in 'single quotes' or with forward slashes"),
        ("dir = C:/data", "Write text in straight quotes"),
        ("dir = \u201c/data\u201d", "Write text in straight quotes"),
        ("\xa0dir = '/data'", r"Line 3 contains \xa0: type that line again."),
        ("dir = '/da\x00ta'", r"Line 3 contains \x00: type that line again."),
        ("= = =", "See `vb365-async-proxy config init` for an example."),
    ],
)
def test_an_error_in_a_toml_file_is_reported_with_its_fix(
    line: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(f"\n[storage]\n{line}\n", encoding="utf-8")
    (problem,) = problems_of({"upstream.url": URL}, {}, path)
    assert problem.hint.startswith(hint)


def test_a_windows_path_in_single_quotes_is_taken_as_it_is(written: Written) -> None:
    assert load(
        written(r"storage = {dir = 'C:\new'}"), {"upstream.url": URL}, {}
    ).storage.dir == Path(r"C:\new")


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


# Secrets are not shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("admin.token", "c4nary two"),
        ("secrets.key", "c4nary"),
        ("storage.jobs", "redis://u:c4nary@h/0/0/"),
        ("webhooks.secrets", "whsec_c4nary"),
        ("webhooks.urls", "ftp://h/hook?sig=c4nary"),
    ],
)
def test_a_bad_secret_is_not_repeated(name: str, value: str) -> None:
    """§9, §15: secrets never appear."""
    found = problem_with(name, value)
    assert "c4nary" not in str(found)


def test_settings_never_show_their_secrets(tmp_path: Path) -> None:
    """`config print`, repr and JSON mask tokens, keys, and the password of a store's URL."""
    flags = {
        "upstream.url": URL,
        "admin.token": "c4nary-token",
        "secrets.key": KEY,
        "webhooks.secrets": f"whsec_{SIGNING}",
        "webhooks.urls": "https://h/hook?sig=c4nary",
        "storage.jobs": "redis://u:c4nary@h/0",
    }
    settings = load(None, flags, {})
    for shown in (
        repr(settings),
        str(settings),
        text.to_toml(settings),
        settings.model_dump_json(),
    ):
        assert "c4nary" not in shown
        assert KEY not in shown
        assert SIGNING not in shown
    assert tomllib.loads(text.to_toml(settings))["storage"]["jobs"] == "redis://********@h/0"


def test_workers_are_refused_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """§15: several processes need sockets that Windows does not share."""
    flags = {
        "upstream.url": URL,
        "listen.workers": "2",
        "storage.dir": str(tmp_path / "data"),
    }
    settings = load(None, flags, {})
    assert startup_problems(settings) == []
    monkeypatch.setattr("proxy.config.startup.sys.platform", "win32")
    (problem,) = startup_problems(settings)
    assert str(problem) == (
        "configuration: listen.workers = 2 is not supported on Windows\n    Leave it at 1."
    )


def test_a_lease_outlives_a_missed_heartbeat(tmp_path: Path) -> None:
    """§18: otherwise a replica would lose its jobs by one renewal that is late."""
    flags = {"upstream.url": URL, "storage.dir": str(tmp_path), "cluster.heartbeat": "20s"}
    (problem,) = startup_problems(load(None, flags, {}))
    assert problem.key == "cluster.lease"
    assert startup_problems(load(None, flags | {"cluster.lease": "40s"}, {})) == []


def test_a_directory_that_cannot_be_written_is_reported_before_anything_starts(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    below = load(None, {"upstream.url": URL, "storage.dir": str(tmp_path / "file" / "below")}, {})
    assert [problem.key for problem in startup_problems(below)] == ["storage.dir"]
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        locked = load(None, {"upstream.url": URL, "storage.dir": str(tmp_path / "new")}, {})
        assert [problem.key for problem in startup_problems(locked)] == ["storage.dir"]


# The texts made from it


@pytest.mark.skipif(sys.platform == "win32", reason="file modes mean nothing on Windows")
@pytest.mark.parametrize(
    ("mode", "parent", "problem", "command"),
    [
        (0o700, 0o755, None, ""),
        (0o755, 0o1777, None, ""),
        (0o720, 0o755, "can be written by others (mode 0720)", "chmod 700 {}/parent/data"),
        (0o1702, 0o755, "can be written by others (mode 1702)", "chmod 700 {}/parent/data"),
        (0o700, 0o757, "can be replaced by others: {}/parent has mode 0757", "chmod o-w {}/parent"),
        (None, 0o757, "can be replaced by others: {}/parent has mode 0757", "chmod o-w {}/parent"),
        (None, 0o1777, None, ""),
    ],
)
def test_a_data_directory_that_others_can_write_is_refused_with_the_command_that_fixes_it(
    mode: int | None, parent: int, problem: str | None, command: str, tmp_path: Path
) -> None:
    directory = tmp_path / "parent" / "data"
    directory.mkdir(parents=True)
    directory.chmod(mode or 0)
    if mode is None:
        directory.rmdir()
    directory.parent.chmod(parent)
    found = startup_problems(load(None, {"upstream.url": URL, "storage.dir": str(directory)}, {}))
    if problem is None:
        assert found == []
        return
    (refused,) = found
    assert refused.key == "storage.dir"
    assert refused.problem == f"= {directory} {problem.format(tmp_path)}"
    assert refused.hint == f"Run: {command.format(tmp_path)}"
    assert (
        subprocess.run(refused.hint.removeprefix("Run: "), shell=True, check=False).returncode == 0
    )
    assert (
        startup_problems(load(None, {"upstream.url": URL, "storage.dir": str(directory)}, {})) == []
    )


@pytest.mark.skipif(sys.platform == "win32", reason="file modes mean nothing on Windows")
def test_a_data_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of root it may be: root can write everywhere."""
    settings = load(None, {"upstream.url": URL, "storage.dir": str(tmp_path)}, {})
    me = tmp_path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: me + 1)
    if me == 0:
        assert startup_problems(settings) == []
        os.chown(tmp_path, 12345, -1)
    (refused,) = startup_problems(settings)
    assert refused.problem == f"= {tmp_path} belongs to another user"
    assert refused.hint == f"Run: chown -R {me + 1} {tmp_path} && chmod 700 {tmp_path}"


def test_the_shipped_file_holds_every_setting_with_its_default() -> None:
    """config/proxy.toml cannot drift: it is what `config init` writes, and every value in it is the
    default.
    """
    shipped = Path(__file__).parents[3] / "config" / "proxy.toml"
    assert shipped.read_text(encoding="utf-8") == text.sample_toml(), "run `make docs`"
    tables = tomllib.loads(text.sample_toml())
    assert {s: set(t) for s, t in tables.items()} == {
        s: set(kind.model_fields) for s, kind in SECTIONS.items()
    }
    assert load(shipped, {"upstream.url": URL}, {}) == load(None, {"upstream.url": URL}, {})


def test_every_setting_is_explained() -> None:
    for section, kind in SECTIONS.items():
        assert kind.__doc__, section
        for key, field in kind.model_fields.items():
            assert (field.description or "").rstrip().endswith("."), f"{section}.{key}"


def test_the_effective_settings_load_again(written: Written) -> None:
    settings = load(
        None,
        {"upstream.url": URL, "exports.grace": "1500ms", "public.trusted_proxies": "10.0.0.0/8"},
        {},
    )
    assert load(written(text.to_toml(settings)), {}, {}) == settings


def test_the_schema_knows_every_key_and_every_default() -> None:
    properties = text.json_schema()["properties"]
    for section, values in text.defaults().items():
        assert properties[section]["additionalProperties"] is False
        for key, default in values.items():
            assert properties[section]["properties"][key].get("default") == (
                default if default != "" else None
            )
            assert "type" in properties[section]["properties"][key]


def test_the_flags_are_settings() -> None:
    assert set(loading.FLAGS) <= {
        f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.model_fields
    }
