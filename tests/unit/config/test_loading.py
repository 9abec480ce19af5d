"""The sources of settings, their precedence, and what is reported (CONTRACT §15)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.config import format_problems, load, loading, text
from proxy.config.settings import SECTIONS
from tests.unit.config.values import URL, Written, problems_of


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
        (b"a = " + b"[" * 5000, "is not TOML"),
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


def test_the_flags_are_settings() -> None:
    assert set(loading.FLAGS) <= {
        f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.model_fields
    }
