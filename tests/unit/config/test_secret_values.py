"""Secrets: their sources, and that no message or dump shows them (CONTRACT §9, §15)."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from proxy.config import load, text
from tests.unit.config.values import KEY, NEWER_KEY, SIGNING, URL, problem_with, problems_of, set_to


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("admin.token", "c4nary two"),
        ("secrets.key", "c4nary"),
        ("storage.jobs", "redis://u:c4nary@h/0/0/"),
        ("webhooks.secrets", "whsec_c4nary"),
        ("webhooks.urls", "ftp://h/c4nary?sig=c4nary"),
        ("webhooks.urls", "h/c4nary"),
        ("webhooks.urls", "https://h/c4nary#c4nary"),
        ("webhooks.urls", "https://h:99999/c4nary"),
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
        "webhooks.urls": "https://h/c4nary?sig=c4nary,https://i:1/c4nary,https://j/",
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
    printed = tomllib.loads(text.to_toml(settings))
    assert printed["storage"]["jobs"] == "redis://********@h/0"
    urls = ["https://h/********", "https://i:1/********", "https://j"]
    assert printed["webhooks"]["urls"] == urls
