"""Logins whose tokens are in the system's keyring."""

from __future__ import annotations

import importlib
import json
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from proxy.client import keyring as entries
from proxy.client import profiles
from proxy.client.errors import CommandError
from tests.unit.client.conftest import Stack, commanded

PASSWORD = {"VB365_PASSWORD": "secret-a"}
KEYRING = importlib.import_module("keyring")
BACKEND = importlib.import_module("keyring.backend").KeyringBackend
FAIL = importlib.import_module("keyring.backends.fail").Keyring
NULL = importlib.import_module("keyring.backends.null").Keyring
DELETE_ERROR = importlib.import_module("keyring.errors").PasswordDeleteError


class Memory(BACKEND):  # type: ignore[misc,valid-type]  # the package is optional
    """A keyring that a session of a desktop has, with the limit of Windows' one."""

    priority = 1
    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def set_password(self, service: str, username: str, password: str) -> None:
        assert len(password) <= 1280
        self.kept[service, username] = password

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise DELETE_ERROR("not found")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    made = Memory()
    monkeypatch.setattr("keyring.core._keyring_backend", made)
    return made


def logged_in(stack: Stack, *options: str) -> Any:
    return commanded("login", stack.url, "--username", "alice", *options, **PASSWORD)


def in_file() -> dict[str, Any]:
    text = (profiles.directory() / "default.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_file_of_the_profile_has_no_secret(stack: Stack, memory: Memory) -> None:
    """Later commands find the tokens in the keyring."""
    result = logged_in(stack, "--keyring")
    assert (result.exit_code, "tokens in the system's keyring" in result.stderr) == (0, True)
    assert in_file().keys().isdisjoint({"access_token", "refresh_token", "expires"})
    token = profiles.load("default").access_token
    assert token
    assert token not in json.dumps(in_file())
    assert any(token in value for value in memory.kept.values())
    assert commanded("organizations").exit_code == 0
    assert commanded("organizations", "--url", stack.url).exit_code == 0


def test_renewed_tokens_are_kept_in_the_keyring(stack: Stack, memory: Memory) -> None:
    logged_in(stack, "--keyring")
    before = profiles.load("default")
    profiles.save(replace(before, expires=time.time() + 5))
    assert commanded("organizations").exit_code == 0
    assert profiles.load("default").access_token != before.access_token
    assert "access_token" not in in_file()


def test_a_later_login_keeps_the_place_unless_it_names_one(stack: Stack, memory: Memory) -> None:
    """What is not used any more is removed."""
    logged_in(stack, "--keyring")
    assert logged_in(stack).exit_code == 0
    assert "access_token" not in in_file()
    assert logged_in(stack, "--no-keyring").exit_code == 0
    assert in_file()["access_token"] == profiles.load("default").access_token
    assert memory.kept == {}


def test_a_logout_removes_the_tokens(stack: Stack, memory: Memory) -> None:
    logged_in(stack, "--keyring")
    assert memory.kept
    assert commanded("logout").exit_code == 0
    assert (memory.kept, profiles.names()) == ({}, [])


def test_long_tokens_are_split(memory: Memory) -> None:
    """Shorter ones later leave none of their entries behind."""
    saved = profiles.Profile(name="default", url="http://a", keyring=1, access_token="t" * 5000)
    profiles.save(saved)
    assert (len(memory.kept), in_file()["keyring"]) == (6, 6)
    assert profiles.load("default").access_token == saved.access_token
    profiles.save(replace(saved, access_token="t"))
    assert (len(memory.kept), profiles.load("default").access_token) == (1, "t")


def test_entries_that_are_missing_are_reported_with_the_fix(stack: Stack, memory: Memory) -> None:
    logged_in(stack, "--keyring")
    memory.kept.clear()
    result = commanded("organizations")
    assert result.exit_code == 2
    assert f"vb365-async-proxy login {stack.url} --keyring" in result.stderr


@pytest.mark.parametrize(
    ("backend", "message"),
    [(FAIL, "No recommended backend was available"), (NULL, "does not keep what it is given")],
)
def test_a_keyring_that_keeps_nothing_is_reported(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, backend: Any, message: str
) -> None:
    """No file is written, so that no token is where the user does not want it."""
    monkeypatch.setattr("keyring.core._keyring_backend", backend())
    result = logged_in(stack, "--keyring")
    assert (result.exit_code, profiles.names()) == (2, [])
    assert message in result.stderr
    assert "log in with --no-keyring" in result.stderr


def test_without_the_package_the_fix_is_named(
    stack: Stack, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login of the keyring is not replaced by one of a file by itself."""
    logged_in(stack, "--keyring")
    monkeypatch.setitem(sys.modules, "keyring", None)
    for result in (logged_in(stack), commanded("organizations")):
        assert result.exit_code == 2
        assert 'pip install "vb365-async-proxy[keyring]"' in result.stderr
    assert "access_token" not in in_file()
    assert logged_in(stack, "--no-keyring").exit_code == 0
    assert commanded("organizations").exit_code == 0


def test_a_file_with_an_impossible_number_of_entries_is_damaged(memory: Memory) -> None:
    path = profiles.save(profiles.Profile(name="default", url="http://a"))
    path.write_text(json.dumps(in_file() | {"keyring": entries.MAX_ENTRIES + 1}), encoding="utf-8")
    with pytest.raises(CommandError, match="is damaged"):
        profiles.load("default")
